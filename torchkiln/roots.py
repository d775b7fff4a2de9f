"""What the locks of a checkout need from the store now, whether they were used there or not.

A lock that is stale, or of a variant that the catalog no longer has, keeps its wheels: most of them
are locked again. What was made from them is made again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from torchkiln import drift, pipeline
from torchkiln.base import base_key
from torchkiln.digests import parse_sha256
from torchkiln.engine.kiln import layer_keys
from torchkiln.errors import LockError
from torchkiln.inputs import base_lock
from torchkiln.lockfile import base_lock_path, lock_hash, lock_name
from torchkiln.progress import say
from torchkiln.projects import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torchkiln.pipeline import Project


def roots(project: Project) -> list[Root]:
    """Return what the locks in the project's `envs/` need; one that is no lock is an error."""
    envs = project.root / "envs"
    bases = [_base(project, path) for path in sorted(envs.glob("*.lock.json"))]
    return [*bases, *(_variant(project, path) for path in sorted(envs.glob("*/")) if path.is_dir())]


def _base(project: Project, path: Path) -> Root:
    inputs, layers = _inputs(path), []
    if path == base_lock_path(project.root, project.catalog.base.release):
        try:
            lock = base_lock(project)
        except LockError as error:
            say(f"only the inputs of the base are kept: {error.what}")
        else:
            # Those of a drifted base are others, and may be fetched while it is not yet built.
            present = drift.recorded(project.store, project.catalog.base, lock)
            inputs += [deb.sha256 for one in (lock, present) if one for deb in one.debs]
            layers = [base_key(lock)]
    return Root(
        project=project.root,
        variant=lock_name(path),
        inputs=frozenset(inputs),
        lock=lock_hash(path),
        layers=frozenset(layers),
    )


def _variant(project: Project, folder: Path) -> Root:
    """Return what the locks in a variant's folder need; its base has a lock of its own."""
    lock = folder / "lock.json"
    paths = [path for path in (lock, folder / "kernel.lock.json") if path.exists()]
    return Root(
        project=project.root,
        variant=folder.name,
        inputs=frozenset(sha256 for path in paths for sha256 in _inputs(path)),
        lock=lock_hash(lock) if lock.exists() else "",
        layers=frozenset(_layers(project, folder.name)),
        conda=frozenset(_conda(folder / "conda-linux-64.lock")),
    )


def _layers(project: Project, name: str) -> list[str]:
    """Return the keys of the layers of an image; none where it cannot be built from its lock."""
    for variant in pipeline.locked_variants(project):
        if variant.id == name:
            try:
                return layer_keys(pipeline.job(project, variant))
            except LockError as error:
                say(f"only the inputs of `{variant.id}` are kept: {error.what}")
    return []


def _inputs(path: Path) -> list[str]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return [
            parse_sha256(entry["sha256"])
            for entry in body["wheels" if "wheels" in body else "debs"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"the lock cannot be read, so what it needs is not known: {path}"
        raise LockError(what, repr(error), "./kiln lock --all") from None


def _conda(path: Path) -> Iterator[str]:
    """Give the packages of a conda lock, which an @EXPLICIT one names line by line."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        file = line.partition("#")[0].rpartition("/")[2]
        if file.endswith((".conda", ".tar.bz2")):
            yield file.removesuffix(".conda").removesuffix(".tar.bz2")
