"""Build several variants: what they share once, one failure without the others, one table.

Unpacked images, which the suite runs in, take most of the room. They are not kept here.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torchkiln import commands, host, pipeline
from torchkiln.engine.job import LAYER_GROWTH, TREE_GROWTH, layer_key, missing_layers
from torchkiln.errors import CatalogError, KilnError
from torchkiln.progress import labelled, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.catalog import Variant
    from torchkiln.commands import BuildOptions
    from torchkiln.engine.commands import EngineBuildReport
    from torchkiln.pipeline import BuildReport, Project


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one variant: a report or an error."""

    variant: Variant
    seconds: float
    report: BuildReport | EngineBuildReport | None = None
    error: KilnError | None = None


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes on the store's disk: to be fetched, to be written, and for a while in between."""

    fetch: int
    layers: int
    trees: int

    @property
    def total(self) -> int:
        """Return how much must be free."""
        return self.fetch + self.layers + self.trees


def choose(project: Project, pattern: str = "*") -> tuple[Variant, ...]:
    """Return the locked variants whose id fits `pattern` (fnmatch: `cu12*`), as in the catalog.

    Those without a lock are named; a pattern that none fits raises `CatalogError`.
    """
    fitting = [one for one in project.catalog.variants if fnmatchcase(one.id, pattern)]
    locked = pipeline.locked_variants(project)
    if not any(one in locked for one in fitting):
        what = f"no locked variant fits `{pattern}`"
        why = "there are: " + ", ".join(one.id for one in locked)
        raise CatalogError(what, why, "./kiln list")
    for one in fitting:
        if one not in locked:
            say(f"`{one.id}` is left out, it is not locked: ./kiln lock {one.flag}")
    return tuple(one for one in fitting if one in locked)


def room(project: Project, variants: Sequence[Variant], jobs: int) -> Room:
    """Return an upper estimate of the room that building `variants` takes."""
    fetch: dict[str, int] = {}
    layers: dict[str, int] = {}
    trees: list[int] = []
    for variant in variants:
        job = pipeline.job(project, variant)
        files = [(wheel.sha256, wheel.size) for wheel in job.lock.wheels]
        files += [(deb.sha256, deb.size) for deb in job.base_lock.debs]
        fetch |= {sha256: size for sha256, size in files if not job.store.has(sha256, size)}
        for group in missing_layers(job):
            layers[layer_key(job, group)] = sum(wheel.size for wheel in group.wheels)
        trees.append(TREE_GROWTH * sum(wheel.size for wheel in job.lock.wheels))
    return Room(
        fetch=sum(fetch.values()),
        layers=int(LAYER_GROWTH * sum(layers.values())),
        trees=sum(sorted(trees)[-jobs:]),
    )


def build_all(
    project: Project, variants: Sequence[Variant], options: BuildOptions, jobs: int
) -> list[Outcome]:
    """Build `variants`, `jobs` at a time; what fails does not stop the others.

    Raise `HostError` before anything is done where the disk has too little room.
    """
    needed = room(project, variants, jobs)
    say(
        f"{len(variants)} variants: {_gigabytes(needed.fetch)} to fetch,"
        f" up to {_gigabytes(needed.layers)} of layers,"
        f" up to {_gigabytes(needed.trees)} while the suite runs"
    )
    hint = "build fewer at a time, `--only 'cu12*'`, or name a place: export TORCHKILN_HOME=/path"
    space = host.Space(path=project.store.root, size=needed.total, hint=hint)
    host.demand(list(host.space_faults(space)))
    if jobs == 1:  # in this thread, which is the one that Ctrl-C reaches
        return [_outcome(project, variant, options) for variant in variants]
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_outcome, project, variant, options) for variant in variants]
        try:
            return [future.result() for future in futures]
        except (KeyboardInterrupt, SystemExit):
            # The builds would go on to their end. They may be killed at any point, and their
            # sandboxes die with this process.
            print("stopped", file=sys.stderr)  # noqa: T201
            os._exit(130)


def _outcome(project: Project, variant: Variant, options: BuildOptions) -> Outcome:
    started = time.monotonic()
    with labelled(variant.id), project.store.workspace() as folder:
        own = replace(project, store=replace(project.store, private=folder / "trees"))
        try:
            report = commands.build(own, variant, options)
        except KilnError as error:
            say(str(error))
            return Outcome(variant=variant, seconds=time.monotonic() - started, error=error)
        say("done")
    return Outcome(variant=variant, seconds=time.monotonic() - started, report=report)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return the highest exit code of what failed, 0 where nothing did."""
    return max((one.error.exit_code for one in outcomes if one.error), default=0)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
