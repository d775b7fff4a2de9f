"""What `push` and `pull` mean for a project: which image, under which names, and where to."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from torchkiln import pipeline
from torchkiln.errors import BuildError, RegistryError
from torchkiln.registry import pull as pulls
from torchkiln.registry import push as pushes
from torchkiln.registry.reference import parse
from torchkiln.registry.tags import content_tag, moving_tags

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.catalog import Variant
    from torchkiln.image import Image
    from torchkiln.pipeline import Project
    from torchkiln.registry.pull import Pulled
    from torchkiln.registry.push import Pushed


def push(project: Project, variant: Variant, target: str, *, plain: bool = False) -> Pushed:
    """Push the built image of `variant` to the repository `target`.

    With a tag in `target` under that name alone, else under its content tag and the moving ones.
    An image that is not built raises `BuildError`: a push is no place for surprises.
    """
    reference = parse(target)
    if reference.digest:
        what = f"a push cannot choose the digest: {target}"
        raise RegistryError(what, hint=f"--to {reference.name}")
    image = pipeline.image_built_before(project, variant)
    if image is None:
        what = f"there is no image of `{variant.id}` to push"
        raise BuildError(
            what, "it was not built from its present lock", f"./kiln build {variant.flag}"
        )
    return pushes.push(
        project.store,
        image,
        reference,
        [reference.tag] if reference.tag else _tags(project, variant, image),
        project.environ,
        plain=plain,
    )


def pull(project: Project, text: str, *, plain: bool = False) -> Pulled:
    """Bring the image that `text` names into the project's store."""
    return pulls.pull(project.store, parse(text), project.environ, plain=plain)


def copy_layout(project: Project, image: Image, target: Path) -> None:
    """Copy the image's layout to a new folder, which appears whole or not at all."""
    if target.exists():
        what = f"there is something already: {target}"
        raise RegistryError(what, hint="name a folder that is not there")
    made = target.with_name(f".{target.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    with project.store.reporting():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(image.layout, made)
        made.rename(target)


def _tags(project: Project, variant: Variant, image: Image) -> list[str]:
    locked = pipeline.locked_variants(project)
    fixed = content_tag(project.catalog.base, variant, image.digest)
    return [fixed, *moving_tags(variant, locked)]
