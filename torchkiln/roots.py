"""What the locks of a project still need from the store; `torchkiln.gc` keeps that.

A lock that is stale, or of a variant that the catalog no longer has, keeps its wheels: most of them
are locked again. What was made from them is made again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchkiln import pipeline
from torchkiln.base import base_key
from torchkiln.engine.job import layer_key
from torchkiln.errors import LockError
from torchkiln.plan import plan_layers
from torchkiln.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torchkiln.pipeline import Project


@dataclass(frozen=True, kw_only=True)
class Roots:
    """`inputs` are the sha256 of wheels and .debs; `images` the keys of each image's layers.

    `conda` are conda's packages, as name-version-build.
    An image's keys are in the order of its layers, without Torchkiln's own, which has none.
    """

    inputs: frozenset[str]
    images: frozenset[tuple[str, ...]]
    conda: frozenset[str] = frozenset()


def roots(project: Project) -> Roots:
    """Return what the locks in the project's `envs/` need; one that is no lock is an error."""
    inputs = {
        sha256
        for pattern in ("*/lock.json", "*/kernel.lock.json", "*.lock.json")
        for path in sorted((project.root / "envs").glob(pattern))
        for sha256 in _inputs(path)
    }
    return Roots(
        inputs=frozenset(inputs),
        images=frozenset(_images(project)),
        conda=frozenset(_conda(project.root / "envs")),
    )


def _inputs(path: Path) -> list[str]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return [str(entry["sha256"]) for entry in body["wheels" if "wheels" in body else "debs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"the lock cannot be read, so what it needs is not known: {path}"
        raise LockError(what, repr(error), "./kiln lock --all") from None


def _conda(envs: Path) -> Iterator[str]:
    """Give the packages of the conda locks, which the @EXPLICIT ones name line by line."""
    for path in sorted(envs.glob("*/conda-linux-64.lock")):
        for line in path.read_text(encoding="utf-8").splitlines():
            file = line.partition("#")[0].rpartition("/")[2]
            if file.endswith((".conda", ".tar.bz2")):
                yield file.removesuffix(".conda").removesuffix(".tar.bz2")


def _images(project: Project) -> Iterator[tuple[str, ...]]:
    """Give the images of the locks, and the base alone, which BuildKit is handed as an image."""
    for variant in pipeline.locked_variants(project):
        try:
            job = pipeline.job(project, variant)
        except LockError as error:
            say(f"only the inputs of `{variant.id}` are kept: {error.what}")
            continue
        base = base_key(job.base_lock)
        yield (base,)
        yield (base, *(layer_key(job, group) for group in plan_layers(job.lock)))
