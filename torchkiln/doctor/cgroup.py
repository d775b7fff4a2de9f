"""What the kernel lets a process have: its cgroups' limits, its CPUs and its own limits.

Of both versions of cgroups (kernel.org, admin-guide/cgroup-v1 and cgroup-v2). In a container with a
cgroup namespace the root of /sys/fs/cgroup is the container's own; elsewhere the process is in a
group below, and the limits of all groups above it count too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`cpus` is a quota (1.5), `memory` bytes, `processes` what may still be started.

    None is for no limit.
    """

    cpus: float | None
    memory: int | None
    processes: int | None


def cgroup_limits(root: Path) -> Limits:
    """Return the tightest limits of the groups that the examined process is in."""
    groups = list(_groups(root))
    cpus = [_quota(group) for group in groups]
    memory = [
        _number(group / name)
        for group in groups
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    processes = [_left(group) for group in groups]
    return Limits(cpus=_least(cpus), memory=_whole(memory), processes=_whole(processes))


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folder of each group, from its own to the topmost."""
    top = root / "sys/fs/cgroup"
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for base in dict.fromkeys([top / controllers, *(top / c for c in controllers.split(","))]):
            group = base / path.strip("/")
            yield group
            yield from (one for one in group.parents if one == base or base in one.parents)


def _quota(group: Path) -> float | None:
    """Return the CPUs' worth of time: `cpu.max` holds it and its period in microseconds."""
    quota, _, period = read(group / "cpu.max").partition(" ")
    if not quota:
        quota, period = read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _left(group: Path) -> int | None:
    most, now = _number(group / "pids.max"), _number(group / "pids.current")
    return None if most is None else most - (now or 0)


def _number(path: Path) -> int | None:
    """Return the number in a file; None where it is `max`, or so large that it means that."""
    text = read(path)
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def _least(values: list[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _whole(values: list[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def allowed_cpus(root: Path) -> int:
    """Return how many CPUs the examined process may run on; 0 where that is not told."""
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)", read(root / "proc/self/status"), re.MULTILINE)
    pairs = [part.partition("-") for part in match[1].split(",")] if match else []
    return sum(int(last or first) - int(first) + 1 for first, _, last in pairs)


def process_limit(root: Path, name: str) -> tuple[int | None, int | None]:
    """Return the soft and the hard limit `name` of /proc/self/limits; None for `unlimited`."""
    match = re.search(rf"^{name}\s+(\S+)\s+(\S+)", read(root / "proc/self/limits"), re.MULTILINE)
    soft, hard = (match[1], match[2]) if match else ("", "")
    return (int(soft) if soft.isdigit() else None), (int(hard) if hard.isdigit() else None)


def read(path: Path) -> str:
    """Return the text of a file of the kernel, "" where it is not there or not for this account."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
