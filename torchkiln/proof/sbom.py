"""The SBOM of an image: CycloneDX 1.6, a function of its locks and of the store alone.

A component for each locked wheel and .deb, with hash, licence and the places that are its own; and
inside a wheel those distributions that it carries along. `dependencies` begins at the image: it
needs what the catalog asks for and what every Debian holds. What is not CycloneDX's is a property:

    io.torchkiln:asked      what asks for it by itself: `variants.cpu.packages: numpy`
    io.torchkiln:layer      the name of the layer that holds it
    io.torchkiln:diff-id    that layer's sha256 (hex)
    io.torchkiln:size       bytes of the wheel or .deb
    io.torchkiln:unpacked   bytes of its files
    io.torchkiln:search     (of the image) a folder that imports or commands are looked up in
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from torchkiln import __version__
from torchkiln.config import HOME
from torchkiln.contents import own_entries
from torchkiln.image import REPOSITORY
from torchkiln.progress import Progress
from torchkiln.proof.debs import deb_parts, read_base
from torchkiln.proof.part import own_places, purl
from torchkiln.proof.wheels import wheel_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torchkiln.engine.job import Job
    from torchkiln.image import Image
    from torchkiln.proof.part import Bundled, Part

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json"
PROPERTY: Final = "io.torchkiln:"
_SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_OWN: Final = purl("generic", "torchkiln", __version__)
_TOOL: Final = {"type": "application", "name": "torchkiln", "version": __version__}


def sbom(job: Job, image: Image) -> dict[str, Any]:
    """Return the SBOM of `image`, which was built of `job`; the same whenever it is made.

    `lockfile.canonical` gives its bytes.
    """
    subject = _subject(job, image)
    parts, system = _read(job, image)
    return {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, subject['bom-ref'])}",
        "version": 1,
        "metadata": {
            # The date of the locks, as in the image: the document depends on no clock.
            "timestamp": job.base_lock.date,
            "tools": {"components": [_TOOL]},
            "component": subject,
        },
        "components": [*_components(job, image, parts), system],
        "dependencies": _dependencies(subject["bom-ref"], parts),
    }


def _read(job: Job, image: Image) -> tuple[list[Part], dict[str, str]]:
    """Return the parts of the image, and its operating system as a component.

    Scanners ask Debian's advisories only where that is named.
    """
    layer = image.layers[0]
    with Progress("sbom", layer.size + sum(wheel.size for wheel in job.lock.wheels)) as progress:
        base = read_base(job.store, layer)
        progress.advance(layer.size)
        parts = [*wheel_parts(job, progress.advance), *deb_parts(job, base)]
    system = {"type": "operating-system", "name": "debian", "version": base.release}
    return parts, system | {"bom-ref": f"debian-{base.release}"}


def _components(job: Job, image: Image, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    """Give the component of each part, and that of Torchkiln's own files."""
    entries = own_entries(job.project, job.base, job.variant, job.lock)
    own = [f"/{entry.path}" for entry in entries if not entry.is_directory]
    files = {_OWN: own} | {part.purl: part.paths for part in parts}
    places = own_places(files, shared=_searched(job))
    diff_ids = {layer.name: layer.diff_id for layer in image.layers}
    for part in parts:
        yield _component(part, places[part.purl], diff_ids[part.layer])
    yield _own(places[_OWN], image.layers[-1].name, image.layers[-1].diff_id)


def _subject(job: Job, image: Image) -> dict[str, Any]:
    """Return the image itself as a component."""
    digest = f"sha256:{image.digest}"
    # Here the colon is encoded: the purl type `oci` says so of the version.
    tag = image.reference.rpartition(":")[2]
    ref = f"pkg:oci/{REPOSITORY}@{digest.replace(':', '%3A')}?arch=amd64&tag={tag}"
    return {
        "type": "container",
        "bom-ref": ref,
        "name": REPOSITORY,
        "version": digest,
        "purl": ref,
        "hashes": [_hash(image.digest)],
        "properties": [_property("search", folder) for folder in _searched(job)],
    }


def _searched(job: Job) -> list[str]:
    """Return the folders of imports, in their order, and then those of commands."""
    python = f"/usr/lib/python{job.base.python}"
    return [
        f"/{job.venv.site}",
        python,
        f"{python}/lib-dynload",
        f"/{job.venv.prefix}/bin",
        f"/{HOME}/bin",
        *(f"/usr/{folder}" for folder in ("local/sbin", "local/bin", "sbin", "bin")),
    ]


def _component(part: Part, places: Iterable[str], diff_id: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": part.purl,
        "name": part.name,
        "version": part.version,
        "purl": part.purl,
        "hashes": [_hash(part.sha256)],
        "licenses": list(part.licences),
        "evidence": _evidence(places),
        "properties": [
            *(_property("asked", text) for text in part.asked),
            *_layer(part.layer, diff_id),
            _property("size", str(part.size)),
            _property("unpacked", str(part.unpacked)),
        ],
    }
    if part.author:
        component["authors"] = [{"name": part.author}]
    if part.supplier:
        component["supplier"] = {"name": part.supplier}
    if part.bundled:
        component["components"] = [_bundled(part, one) for one in part.bundled]
    return component


def _bundled(part: Part, inner: Bundled) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"{part.purl}#{inner.path.lstrip('/')}",
        "name": inner.name,
        "version": inner.version,
        "purl": inner.purl,
        "licenses": list(inner.licences),
        "evidence": _evidence([inner.path]),
    }


def _own(places: Iterable[str], layer: str, diff_id: str) -> dict[str, Any]:
    """Return Torchkiln's own files as a component."""
    return _TOOL | {
        "bom-ref": _OWN,
        "purl": _OWN,
        "evidence": _evidence(places),
        "properties": [_property("asked", "every image: torchkiln"), *_layer(layer, diff_id)],
    }


def _dependencies(subject: str, parts: Sequence[Part]) -> list[dict[str, Any]]:
    asked = sorted([_OWN, *(part.purl for part in parts if part.asked)])
    rows = {subject: asked, _OWN: []} | {part.purl: sorted(part.needs) for part in parts}
    return [{"ref": ref, "dependsOn": needs} for ref, needs in rows.items()]


def _evidence(places: Iterable[str]) -> dict[str, Any]:
    return {"occurrences": [{"location": place} for place in places]}


def _layer(name: str, diff_id: str) -> list[dict[str, str]]:
    return [_property("layer", name), _property("diff-id", diff_id)]


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"{PROPERTY}{name}", "value": value}


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}
