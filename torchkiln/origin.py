"""Images by the words of the command line: `cpu@kiln`, `ghcr.io/org/torch:cpu`, a path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchkiln import pipeline
from torchkiln.engine.connection import check_name, connect
from torchkiln.engine.images import find
from torchkiln.engine.save import read_engine_image
from torchkiln.errors import ArchiveError, EngineError
from torchkiln.image import REPOSITORY
from torchkiln.image_reader import read_archive, read_layout
from torchkiln.progress import Progress
from torchkiln.registry.pull import pull
from torchkiln.registry.reference import is_reference, parse

if TYPE_CHECKING:
    from torchkiln.listing import ImageListing
    from torchkiln.pipeline import Project

_FORMS = (
    "`VARIANT@kiln`, `IMAGE@docker`, `IMAGE@podman`, `REGISTRY/REPOSITORY[:TAG]`, "
    "an OCI layout, or an archive of an image"
)


def read_image(project: Project, text: str) -> ImageListing:
    """Return what the image that `text` names holds.

    A variant's id stands for the image that is built of it; with `@kiln` it is built if need be.
    """
    if Path(text).is_dir():
        return read_layout(Path(text))
    if Path(text).is_file():
        return _read_file(Path(text))
    if is_reference(text):
        return read_layout(pull(project.store, parse(text), project.environ).image.layout)
    name, at, origin = text.rpartition("@")
    if not at:
        what = f"this is no image: {text}"
        raise ArchiveError(what, f"it can be {_FORMS}")
    if origin == "kiln":
        variant = project.catalog.variant(name)
        return read_layout(pipeline.built_image(project, variant).layout)
    with connect(check_name(origin), project.environ) as engine:
        variants = [variant.id for variant in project.catalog.variants]
        reference = f"{REPOSITORY}:{name}" if name in variants else name
        image = find(engine, reference)
        if image is None:
            what = f"there is no image `{reference}` in {engine.title}"
            raise EngineError(what, hint=f"{origin} images")
        return read_engine_image(engine, image)


def _read_file(path: Path) -> ImageListing:
    with path.open("rb") as stream, Progress("reading", path.stat().st_size) as progress:
        return read_archive(progress.reading(stream), str(path))
