"""Check that a DataLoader's workers hand over what the data set holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from suite import check, failed, passed, skipped
from torch.utils.data import DataLoader, get_worker_info

if TYPE_CHECKING:
    from image import Image
    from suite import Outcome
    from torch import Tensor

SHARED: Final = Path("/dev/shm")  # noqa: S108 - what shm_open uses, not a place for files
WORKERS: Final = 2
SAMPLES: Final = 8
SHAPE: Final = (640, 512)
"""In float32 1.25 MiB a sample: far more than a pipe holds, so it must go by shared memory."""

NEEDED: Final = 32 << 20
"""Bytes of shared memory: two batches of two samples in flight for each worker, and some room."""


class Numbered:
    """Samples that show their index in each entry; beside it, the worker and its process."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return sample(index), get_worker_info().id, os.getpid()


def sample(index: int) -> Tensor:
    """Return the sample `index`, distinct in each entry from every other."""
    size = SHAPE[0] * SHAPE[1]
    # Whole numbers below 2^24 are exact in float32.
    return torch.arange(index * size, (index + 1) * size, dtype=torch.float32).reshape(SHAPE)


def lack_of_shared_memory() -> str:
    """Return why workers cannot share memory on this host, or an empty string."""
    if not os.access(SHARED, os.W_OK):
        return f"{SHARED} is missing or not writable; give the container a tmpfs there"
    free = os.statvfs(SHARED).f_bavail * os.statvfs(SHARED).f_frsize
    if free < NEEDED:
        return f"{SHARED} has {free >> 20} MiB free, {NEEDED >> 20} are needed; try `--shm-size`"
    return ""


@check("dataloader-workers")
def dataloader_workers(_: Image) -> Outcome:
    """Load samples of 1.25 MiB with two workers; compare order, contents and who loaded them."""
    if lack := lack_of_shared_memory():
        return skipped("no shared memory", lack)
    loader = DataLoader(Numbered(), batch_size=2, num_workers=WORKERS, timeout=60)
    samples, workers, processes = zip(*loader, strict=True)
    if not torch.equal(torch.cat(samples), torch.stack([sample(i) for i in range(SAMPLES)])):
        return failed("wrong data", "the workers' samples are not those of the data set, in order")
    if torch.cat(workers).unique().tolist() != [0, 1] or os.getpid() in torch.cat(processes):
        return failed("wrong workers", f"not every sample came from one of {WORKERS} workers")
    return passed(f"{WORKERS} workers, {SAMPLES} samples")
