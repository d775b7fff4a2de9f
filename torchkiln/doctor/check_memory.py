"""Memory: the shared memory that data loaders pass batches through."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, skipped, warning

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

_WANTED: Final = 1_000_000_000
"""Bytes. Docker gives 64 MB; a batch of a few hundred images does not fit in it."""


@check("shared-memory", area="container", rank=60)
def shared_memory(facts: Facts) -> Outcome:
    """Look for room for data loaders, which a full /dev/shm ends with a bus error."""
    folder = facts.subject.root / "dev/shm"
    if not folder.is_dir():
        return skipped("there is no /dev/shm")
    found = os.statvfs(folder)
    size = found.f_frsize * found.f_blocks
    if size >= _WANTED:
        return ok(f"shared memory: {size / 1e9:.1f} GB")
    return warning(
        f"shared memory: {size / 1e6:.0f} MB",
        cause="workers of a DataLoader pass batches through it, and die with a bus error when full",
        remedy="docker run --shm-size=8g IMAGE",
        link="pytorch/pytorch#5040",
    )
