"""Threads and files: how many torch starts, and how many it may have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.cgroup import allowed_cpus, cgroup_limits, process_limit
from torchkiln.doctor.checks import check, ok, skipped, warning

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

_POOLS: Final = 4
"""torch has a pool of threads for OpenMP, for its operators, for autograd, and OpenBLAS another."""

_ROOM: Final = 64
"""Processes that a shell, workers of data loaders and their servers take beside."""

_FILES: Final = 1024
"""Linux's own soft limit. Each batch that a worker passes on is an open file."""


def threads(facts: Facts) -> int:
    """Return how many threads torch starts for a sum: it knows of the mask, and of no quota."""
    wanted = facts.subject.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(wanted) if wanted.isdigit() else allowed_cpus(facts.subject.root)


@check("cpu-quota", area="container", rank=74)
def cpu_quota(facts: Facts) -> Outcome:
    """Compare the threads that torch starts with the CPUs that it gets."""
    cpus, quota = allowed_cpus(facts.subject.root), cgroup_limits(facts.subject.root).cpus
    if not cpus:
        return skipped("the kernel does not tell which CPUs are allowed")
    most = min(cpus, math.ceil(quota)) if quota else cpus
    count = threads(facts)
    if count <= most:
        return ok(f"{count} threads, {most} CPUs")
    return warning(
        f"torch starts {count} threads, and gets the time of {most} CPUs",
        cause="threads wait for each other when only some of them run: many times slower",
        remedy=f"export OMP_NUM_THREADS={most}",
        link="pytorch/pytorch#193859",
    )


@check("process-limit", area="container", rank=75)
def process_limits(facts: Facts) -> Outcome:
    """Look whether the threads of torch may all be started: each counts as a process."""
    root = facts.subject.root
    own = process_limit(root, "Max processes")[0]
    limits = [one for one in (own, cgroup_limits(root).processes) if one is not None]
    count = threads(facts)
    if not limits or min(limits) >= _POOLS * count + _ROOM:
        return ok(f"{min(limits) if limits else 'no limit of'} processes may be started")
    fewer = max(1, (min(limits) - _ROOM) // _POOLS)
    if fewer >= count:
        return ok(f"{min(limits)} processes may be started, enough for {count} threads")
    return warning(
        f"{min(limits)} processes may be started, and torch starts {count} threads in each pool",
        cause="`Thread creation failed: Resource temporarily unavailable` ends the program",
        remedy=f"export OMP_NUM_THREADS={fewer} OPENBLAS_NUM_THREADS={fewer}",
        link="ray-project/ray#8546",
    )


@check("open-files", area="container", rank=76)
def open_files(facts: Facts) -> Outcome:
    """Look whether data loaders may open their files."""
    soft, hard = process_limit(facts.subject.root, "Max open files")
    if soft is None or soft >= _FILES:
        return ok(f"{soft or 'any number of'} files may be open")
    return warning(
        f"only {soft} files may be open",
        cause="workers of a DataLoader end with `Too many open files` or `received 0 items`",
        remedy=f"ulimit -S -n {hard or _FILES}",
        link="pytorch/pytorch#973",
    )
