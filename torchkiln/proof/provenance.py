"""What an image was made from: an in-toto Statement v1 with SLSA's provenance v1.

The build type `pkg:generic/torchkiln#build/v1`, whose parameters are these:

    externalParameters.variant   the id of the variant in the catalog
    externalParameters.files     the text of the catalog and of the two locks, by their paths
    internalParameters           what Torchkiln chose by itself: codec, prefix, Python, and for each
                                 layer the hash of all that it is made from and by, code included;
                                 `drifted` names what is not as the project locks it

To build the image again: write the files into a folder, and beside them those of Torchkiln that
`resolvedDependencies` names with their hashes (`project_from` does both); then
`torchkiln.pipeline.built_image` of the variant. Nothing in it comes from a clock or this machine,
but for the commit of Torchkiln where that is a clone, and the smoke suite's report.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import installer
import isal

from torchkiln import __version__
from torchkiln.base import base_key
from torchkiln.contents import ROOTFS
from torchkiln.descriptors import items, mapping
from torchkiln.digests import parse_sha256
from torchkiln.engine.job import layer_key
from torchkiln.errors import ArchiveError
from torchkiln.files import write_atomic
from torchkiln.layer import CODEC
from torchkiln.lockfile import base_lock_path, dump, variant_lock_path
from torchkiln.plan import plan_layers
from torchkiln.proof.part import purl
from torchkiln.proof.statement import statement
from torchkiln.smoke import last_report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torchkiln.engine.job import Job
    from torchkiln.image import Image

PREDICATE: Final = "https://slsa.dev/provenance/v1"
# Nobody has to own a domain for these: a package URL names the software, its subpath the form.
BUILD_TYPE: Final = "pkg:generic/torchkiln#build/v1"
BUILDER: Final = "pkg:generic/torchkiln"
TORCHKILN: Final = Path(__file__).resolve().parents[2]
_CATALOG: Final = "images/variants.yaml"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?", re.ASCII)


def provenance(job: Job, image: Image) -> dict[str, Any]:
    """Return the statement on `image`, which was built of `job`; `lockfile.canonical` its bytes."""
    files = _project_files(job)
    report = last_report(job.store, image)
    byproducts = [_file("smoke/report.json", report.folder / "report.json")] if report else []
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"variant": job.variant.id, "files": files},
            "internalParameters": {
                "codec": CODEC,
                "prefix": f"/{job.venv.prefix}",
                "python": job.python_package,
                "layers": _layer_keys(job),
                **_drifted(job),
            },
            "resolvedDependencies": list(_dependencies(job, files)),
        },
        "runDetails": {
            "builder": {
                "id": BUILDER,
                "version": {
                    "torchkiln": __version__,
                    "installer": installer.__version__,
                    "isal": isal.__version__,
                },
            },
            "byproducts": byproducts,
        },
    }
    return statement(image.reference, image.digest, PREDICATE, predicate)


def project_from(said: Mapping[str, Any], folder: Path, torchkiln: Path = TORCHKILN) -> None:
    """Write into `folder` a project that `pipeline.open_project` can build the image from.

    Catalog and locks come from the statement, the image's own files from the Torchkiln at
    `torchkiln`: `differing` tells whether they are those of the statement. A statement of another
    build type, or with other files, raises `ArchiveError` before anything is written.
    """
    files = _checked_files(said)
    for name, text in files.items():
        write_atomic(folder / name, text)
    shutil.copytree(torchkiln / "smoke", folder / "smoke", dirs_exist_ok=True)


def differing(said: Mapping[str, Any], torchkiln: Path = TORCHKILN) -> list[str]:
    """Return the image's own files that this Torchkiln has otherwise than the statement says.

    With any, the image cannot become the same here.
    """
    theirs = {
        name: one
        for name, one in _materials(said).items()
        if name.startswith(("smoke/", "torchkiln/"))
    }
    ours = {one["name"]: one for one in _own_files(torchkiln)}
    return sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))


def built_by(said: Mapping[str, Any]) -> str:
    """Return the commit of Torchkiln that built the image, "" where it is not told."""
    material = _materials(said).get("torchkiln", {"digest": {}})
    commit = str(mapping(material["digest"]).get("gitCommit", ""))
    return commit if _COMMIT.fullmatch(commit) else ""


@contextmanager
def _reading() -> Iterator[None]:
    """Turn a fault of a statement, which may be anybody's, into an `ArchiveError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError):
        what = "this is no provenance of an image that Torchkiln built"
        raise ArchiveError(what, f"its build type must be {BUILD_TYPE}, with three files") from None


def _materials(said: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what entered the build, by name; each has a digest."""
    with _reading():
        listed = items(said["predicate"]["buildDefinition"]["resolvedDependencies"])
        found = {str(mapping(one)["name"]): mapping(one) for one in listed}
        for one in found.values():
            digest = mapping(one["digest"])
            if "gitCommit" not in digest:
                parse_sha256(digest["sha256"])
        return found


def _checked_files(said: Mapping[str, Any]) -> dict[str, str]:
    """Return the files of a statement: no other path may be written."""
    with _reading():
        definition = said["predicate"]["buildDefinition"]
        variant = str(definition["externalParameters"]["variant"])
        files = dict(mapping(definition["externalParameters"]["files"]))
        build_type = definition["buildType"]
        (base,) = (name for name in files if name not in {_CATALOG, f"envs/{variant}/lock.json"})
    named = base.removeprefix("envs/debian-").removesuffix(".lock.json")
    plain = all(word.isascii() and word.isalnum() for word in (named, variant))
    plain = plain and all(isinstance(text, str) for text in files.values())
    if build_type != BUILD_TYPE or not plain or base != f"envs/debian-{named}.lock.json":
        what = "this is no provenance that Torchkiln can build from"
        raise ArchiveError(what, f"build type: {build_type}\nfiles: {', '.join(files)}")
    return files


def _project_files(job: Job) -> dict[str, str]:
    """Return the text of the catalog and of the locks, by path in the project.

    The lock of the base is that of this image, also where it has drifted from the project's.
    """
    paths = (job.project / _CATALOG, variant_lock_path(job.project, job.variant.id))
    texts = {path: path.read_text("utf-8") for path in paths}
    texts[base_lock_path(job.project, job.base.release)] = dump(job.base_lock)
    return {str(path.relative_to(job.project)): text for path, text in texts.items()}


def _drifted(job: Job) -> dict[str, Any]:
    """Return the packages of the base that are not the ones that the project locks, if any."""
    drifted = [asdict(package) for package in job.base_lock.drifted]
    return {"drifted": drifted} if drifted else {}


def _layer_keys(job: Job) -> dict[str, str]:
    """Return the keys under which a store keeps the layers of packages, by the layers' names."""
    keys = {group.name: layer_key(job, group) for group in plan_layers(job.lock)}
    return {f"debian-{job.base.release}": base_key(job.base_lock)} | keys


def _dependencies(job: Job, files: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Give all that entered the build, each by its sha256 (in-toto's ResourceDescriptor)."""
    for name, text in files.items():
        yield _resource(name, hashlib.sha256(text.encode()).hexdigest())
    for wheel in job.lock.wheels:
        yield _resource(wheel.file, wheel.sha256, purl("pypi", wheel.name, wheel.version))
    for deb in job.base_lock.debs:
        uri = purl("deb/debian", deb.name, deb.version, arch=deb.architecture)
        yield _resource(deb.filename.rpartition("/")[2], deb.sha256, uri)
    yield from _own_files(job.project)
    if commit := _commit(TORCHKILN):
        uri = purl("generic", "torchkiln", __version__)
        yield {"name": "torchkiln", "uri": uri, "digest": {"gitCommit": commit}}


def _own_files(project: Path) -> Iterator[dict[str, Any]]:
    """Give the files of a project and of this package that images hold as they are."""
    for path in sorted((project / "smoke").glob("*.py")):
        yield _file(f"smoke/{path.name}", path)
    for path in sorted(ROOTFS.rglob("*")):
        if path.is_file():
            yield _file(f"torchkiln/rootfs/{path.relative_to(ROOTFS)}", path)


def _commit(project: Path) -> str:
    """Return the commit of a clone in which nothing is changed; "" where there is none to name."""
    if not (project / ".git").exists():
        return ""
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", project, *words], capture_output=True, text=True, check=True
            )
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "" if changed.stdout else head.stdout.strip()


def _file(name: str, path: Path) -> dict[str, Any]:
    return _resource(name, hashlib.sha256(path.read_bytes()).hexdigest())


def _resource(name: str, sha256: str, uri: str = "") -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}} | ({"uri": uri} if uri else {})
