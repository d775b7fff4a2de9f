"""Memory: what torch may take, and the shared memory that data loaders pass batches through."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from torchkiln.doctor import builds
from torchkiln.doctor.cgroup import cgroup_limits, process_limit, read
from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.container import as_root

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

_WANTED: Final = 1_000_000_000
"""Bytes. A batch of a few hundred images takes a tenth of it, and several wait at a time."""

_HOPELESS: Final = 256 << 20
"""Bytes. Docker gives 64 MiB unless it is asked for more."""

_IMPORT: Final = 500_000_000
"""Bytes: twice what importing torch 2.13 for CPUs takes."""

_IMPORT_CUDA: Final = 1_000_000_000
"""Bytes: the libraries of CUDA, and what they keep of each GPU."""

_ADDRESSES: Final = 2 << 30
"""Bytes: importing torch 2.13 for CPUs takes 0.7 GB of addresses, and each thread 8 MB and more."""

_ADDRESSES_CUDA: Final = 128 << 30
"""Bytes: CUDA sets addresses aside for the memory of all GPUs and of the machine."""

_MORE_SHARED: Final = {
    "docker": "docker run --shm-size=8g IMAGE",
    "podman": "podman run --shm-size=8g IMAGE",
    "kubernetes": """kubectl patch deployment NAME -p '{"spec":{"template":{"spec":{"""
    """"volumes":[{"name":"shm","emptyDir":{"medium":"Memory"}}],"containers":[{"name":"CONTAINER","""
    """"volumeMounts":[{"name":"shm","mountPath":"/dev/shm"}]}]}}}}'""",
}
_MORE: Final = {
    "docker": "docker run --memory=8g IMAGE",
    "podman": "podman run --memory=8g IMAGE",
    "kubernetes": "kubectl set resources deployment NAME --limits=memory=8Gi",
}
_SWAP: Final = (
    *("fallocate -l 4G /swapfile", "chmod 600 /swapfile"),
    *("mkswap /swapfile", "swapon /swapfile"),
)


@check("shared-memory", area="container", rank=70)
def shared_memory(facts: Facts) -> Outcome:
    """Look for room for data loaders, which a full /dev/shm ends with a bus error."""
    folder = facts.subject.root / "dev/shm"
    if not folder.is_dir():
        return skipped("there is no /dev/shm")
    found = os.statvfs(folder)
    size, free = found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
    # A small machine of its own has half its memory there, which is what it can have.
    if free >= _WANTED or (not facts.container and free >= 0.4 * _installed(facts)):
        return ok(f"shared memory: {free >> 20} of {size >> 20} MiB are free")
    say = problem if facts.container and free < _HOPELESS else warning
    return say(
        f"shared memory: {free >> 20} of {size >> 20} MiB are free",
        cause="workers of a DataLoader pass batches through it, and die with a bus error when full",
        remedy=_MORE_SHARED.get(facts.container, as_root("mount -o remount,size=8g /dev/shm")),
        link="pytorch/pytorch#5040",
    )


def _installed(facts: Facts) -> int:
    """Return the machine's memory in bytes, 0 where it is not told."""
    return _memory(facts, "MemTotal")


def _memory(facts: Facts, name: str) -> int:
    match = re.search(
        rf"^{name}:\s+(\d+) kB", read(facts.subject.root / "proc/meminfo"), re.MULTILINE
    )
    return int(match[1]) * 1024 if match else 0


@check("memory", area="container", rank=72)
def memory(facts: Facts) -> Outcome:
    """Look whether torch has the memory that it needs to start at all."""
    limit = cgroup_limits(facts.subject.root).memory
    available = _memory(facts, "MemAvailable") + _memory(facts, "SwapFree")
    rooms = [room for room in (limit, available) if room]
    if not rooms:
        return skipped("the kernel does not tell of memory")
    if min(rooms) >= (_IMPORT_CUDA if builds.wants_gpu(facts) else _IMPORT):
        return ok(f"memory: {min(rooms) / 1e9:.1f} GB")
    limited = limit == min(rooms)
    return warning(
        f"memory: {min(rooms) / 1e6:.0f} MB " + ("are allowed" if limited else "are available"),
        cause="the kernel ends a process that takes more: `Killed`, exit code 137",
        remedy=_more(facts) if limited else " && ".join(map(as_root, _SWAP)),
        link="open-mmlab/mmdetection#6452",
    )


def _more(facts: Facts) -> str:
    if "SLURM_JOB_ID" in facts.subject.environ:
        return "srun --mem=8G --pty bash"
    return _MORE.get(facts.container, "systemd-run --user --scope -p MemoryMax=8G bash")


@check("address-space", area="container", rank=73)
def address_space(facts: Facts) -> Outcome:
    """Look for `ulimit -v`, which some clusters set and which counts what is never touched."""
    soft, hard = process_limit(facts.subject.root, "Max address space")
    needed = _ADDRESSES_CUDA if builds.wants_gpu(facts) else _ADDRESSES
    if soft is None or soft >= needed:
        return ok("there are addresses enough")
    return problem(
        f"ulimit -v: a process may have {soft / 1e9:.1f} GB of addresses",
        cause="import torch ends with `failed to map segment from shared object` or MemoryError",
        remedy=f"ulimit -S -v {hard // 1024 if hard else 'unlimited'}",
        link="pytorch/pytorch#16558",
    )
