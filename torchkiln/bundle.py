"""Write a bundle: all that `build` needs on a site without a network, in one file.

The form is in `torchkiln.bundle_format`, the way back in `torchkiln.bundle_loader`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from torchkiln import bundle_source, drift, host, layer_records, pipeline
from torchkiln.bundle_format import END, INDEX, SUMS, Index, Part, part
from torchkiln.engine.kiln import layer_keys
from torchkiln.errors import ArchiveError
from torchkiln.layer import CHUNK
from torchkiln.lockfile import base_lock_path, canonical, variant_lock_path
from torchkiln.progress import Progress, say
from torchkiln.proof.sbom import sbom
from torchkiln.reports import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from torchkiln.catalog import Variant
    from torchkiln.image import Image
    from torchkiln.pipeline import Project
    from torchkiln.store import Store


@dataclass(frozen=True, kw_only=True)
class Item:
    """A part and where its bytes are: in a file, or here."""

    part: Part
    source: Path | bytes


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A bundle that was written; `sha256` (hex) is that of the whole file."""

    path: Path
    size: int
    sha256: str
    index: Index


def bundle(
    project: Project,
    variants: Sequence[Variant],
    output: Path,
    *,
    inputs_only: bool = False,
) -> Bundled:
    """Write what builds `variants` to `output`; unless `inputs_only`, images and SBOMs too.

    The same bytes each time, for the same locks and images. A base that has drifted from its lock
    raises `LockError`: the bundle holds what the locks name.
    """
    for variant in variants:
        work = pipeline.job(project, variant)
        drift.refuse(work.base_lock)
        pipeline.fetch_again(project, work)
    images = {} if inputs_only else {v: pipeline.built_image(project, v) for v in variants}
    with project.store.workspace() as folder:
        say("bringing the wheels that Torchkiln itself runs with")
        wheels = bundle_source.requirements(project.root, folder)
        items = {
            item.part.path: item
            for item in (
                *_own(project, wheels),
                *(one for variant in variants for one in _inputs(project, variant)),
                *(
                    one
                    for variant, image in images.items()
                    for one in _built(project, variant, image)
                ),
            )
        }
        ordered = sorted(items.values(), key=lambda item: item.part.order)
        index = Index(
            variants=tuple(variant.id for variant in variants),
            images={variant.id: f"sha256:{image.digest}" for variant, image in images.items()},
            python=bundle_source.PYTHON,
            parts=tuple(item.part for item in ordered),
        )
        sha256 = _write(output, index, ordered)
    return Bundled(path=output, size=index.length, sha256=sha256, index=index)


def _own(project: Project, wheels: Iterable[Path]) -> Iterator[Item]:
    """Give Torchkiln itself."""
    yield _item("loader", "load", bundle_source.loader(project.root))
    yield _item("source", "torchkiln.tar", bundle_source.source(project.root))
    for wheel in wheels:
        yield _item("requirement", f"requirements/{wheel.name}", wheel)


def _inputs(project: Project, variant: Variant) -> Iterator[Item]:
    """Give the locks of a variant and what they name."""
    work = pipeline.job(project, variant)
    root, release = project.root, project.catalog.base.release
    lock, base_lock = variant_lock_path(root, variant.id), base_lock_path(root, release)
    yield _item("lock", f"locks/{variant.id}.json", lock.read_bytes())
    yield _item("lock", f"locks/{base_lock.name}", base_lock.read_bytes())
    for wheel in work.lock.wheels:
        yield _blob(project.store, "wheel", wheel.sha256, wheel.file)
    for deb in work.base_lock.debs:
        yield _blob(project.store, "deb", deb.sha256, f"{deb.name} {deb.version}")


def _built(project: Project, variant: Variant, image: Image) -> Iterator[Item]:
    """Give an image, its SBOM, and the keys under which a build finds its layers."""
    store = project.store
    document = canonical(sbom(pipeline.job(project, variant), image))
    yield _item("sbom", f"sbom/{variant.id}.cdx.json", document)
    yield _blob(store, "manifest", image.digest, f"{variant.id}'s manifest")
    yield _blob(store, "config", image.config, f"{variant.id}'s configuration")
    for layer in image.layers:
        yield _blob(store, "layer", layer.digest, layer.name)
    for key in layer_keys(pipeline.job(project, variant)):
        if known := layer_records.read(store, key):
            yield _item("record", f"records/{key}", canonical(vars(known)))


def _item(role: str, path: str, source: Path | bytes) -> Item:
    name = path.rpartition("/")[2]
    data = source if isinstance(source, bytes) else source.read_bytes()
    return Item(part=part(role, path, name, data), source=source)


def _blob(store: Store, role: str, sha256: str, name: str) -> Item:
    path = store.blob(sha256)
    size = path.stat().st_size
    made = Part(role=role, path=f"blobs/sha256/{sha256}", name=name, size=size, sha256=sha256)
    return Item(part=made, source=path)


def _write(output: Path, index: Index, items: Sequence[Item]) -> str:
    """Write the bundle, which appears whole or not at all; return its sha256 (hex)."""
    say(f"a bundle of {', '.join(index.variants)}: {index.length / 1e6:,.0f} MB at {output}")
    hint = "name a place that has room: --output /path/FILE"
    space = host.Space(path=output.absolute().parent, size=index.length, hint=hint)
    host.demand(list(host.space_faults(space)))
    sha256 = hashlib.sha256()
    with Progress("bundle", index.length) as progress:

        def write(stream: IO[bytes]) -> None:
            for data in _bytes(index, items):
                sha256.update(data)
                stream.write(data)
                progress.advance(len(data))
            stream.flush()
            os.fsync(stream.fileno())

        write_file(output, write)
    return sha256.hexdigest()


def _bytes(index: Index, items: Sequence[Item]) -> Iterator[bytes]:
    ahead = {INDEX: index.data, SUMS: index.sums}
    sources = ahead | {item.part.path: item.source for item in items}
    for one in index.all_parts:
        yield one.header
        yield from _checked(one, sources[one.path])
        yield one.padding
    yield END


def _checked(one: Part, source: Path | bytes) -> Iterator[bytes]:
    """Give the bytes of a part; a disk that changed them since raises `ArchiveError`."""
    found = hashlib.sha256()
    for data in [source] if isinstance(source, bytes) else _chunks(source):
        found.update(data)
        yield data
    if found.hexdigest() != one.sha256:
        what = f"a file is not what it was: {one.name}"
        raise ArchiveError(what, f"{one.path} should have the sha256 {one.sha256}")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(CHUNK):
            yield data


def as_json(bundled: Bundled) -> dict[str, Any]:
    """Return what `bundle --json` prints."""
    return {
        "bundle": str(bundled.path),
        "sha256": bundled.sha256,
        "size": bundled.size,
        "python": bundled.index.python,
        "variants": list(bundled.index.variants),
        "images": dict(bundled.index.images),
    }
