"""The releases of torch: their CUDA builds, their Pythons and their companions.

Facts as data. Collected on 2026-11-23, torchaudio's last row on 2026-11-30, from:

- the package index and the wheels' own metadata: Python tags, the CUDA of the default wheel
  (`torch/version.py`), the `Requires-Dist` of torchvision and torchaudio;
- pytorch/pytorch RELEASE.md and replicate/cog `pkg/config/torch_compatibility.json` (6110c91): the
  CUDA builds of each release on the PyTorch index.

A new torch is a row of the table. Needs nothing but the standard library: the doctor reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: (2, 13, 0) of `2.13.0+cu130`."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release of torch for Linux on x86_64.

    `date` is the day of its wheels on the package index, `default_cuda` the build there, `cuda`
    every build that was published, `pythons` the wheels' Pythons. Companions are the versions made
    for this torch.
    """

    torch: str
    date: str
    default_cuda: str
    cuda: tuple[str, ...]
    pythons: tuple[str, ...]
    torchvision: str
    torchaudio: str


def _release(
    release: str, cuda: str, minors: tuple[int, int], torchvision: str, torchaudio: str
) -> Release:
    """Read a row of the table: the first CUDA is the default, `minors` are first and last."""
    torch, date = release.split()
    default, *others = cuda.split()
    return Release(
        torch=torch,
        date=date,
        default_cuda=default,
        cuda=tuple(sorted([default, *others], key=numbers)),
        pythons=tuple(f"3.{minor}" for minor in range(minors[0], minors[1] + 1)),
        torchvision=torchvision,
        torchaudio=torchaudio,
    )


# torchvision 0.15.0 and torchaudio 2.0.0 were yanked for a wrong pin, hence the odd pair of 2.0.0.
_TABLE: Final = (
    _release("1.13.0 2022-10-28", "11.7 11.6", (7, 11), "0.14.0", "0.13.0"),
    _release("1.13.1 2022-12-15", "11.7 11.6", (7, 11), "0.14.1", "0.13.1"),
    _release("2.0.0 2023-03-15", "11.7 11.8", (8, 11), "0.15.1", "2.0.1"),
    _release("2.0.1 2023-05-08", "11.7 11.8", (8, 11), "0.15.2", "2.0.2"),
    _release("2.1.0 2023-10-04", "12.1 11.8", (8, 11), "0.16.0", "2.1.0"),
    _release("2.1.1 2023-11-15", "12.1 11.8", (8, 11), "0.16.1", "2.1.1"),
    _release("2.1.2 2023-12-14", "12.1 11.8", (8, 11), "0.16.2", "2.1.2"),
    _release("2.2.0 2024-01-30", "12.1 11.8", (8, 12), "0.17.0", "2.2.0"),
    _release("2.2.1 2024-02-22", "12.1 11.8", (8, 12), "0.17.1", "2.2.1"),
    _release("2.2.2 2024-03-27", "12.1 11.8", (8, 12), "0.17.2", "2.2.2"),
    _release("2.3.0 2024-04-24", "12.1 11.8", (8, 12), "0.18.0", "2.3.0"),
    _release("2.3.1 2024-06-05", "12.1 11.8", (8, 12), "0.18.1", "2.3.1"),
    _release("2.4.0 2024-07-24", "12.1 11.8 12.4", (8, 12), "0.19.0", "2.4.0"),
    _release("2.4.1 2024-09-04", "12.1 11.8 12.4", (8, 12), "0.19.1", "2.4.1"),
    _release("2.5.0 2024-10-17", "12.4 11.8 12.1", (9, 13), "0.20.0", "2.5.0"),
    _release("2.5.1 2024-10-29", "12.4 11.8 12.1", (9, 13), "0.20.1", "2.5.1"),
    _release("2.6.0 2025-01-29", "12.4 11.8 12.6", (9, 13), "0.21.0", "2.6.0"),
    _release("2.7.0 2025-04-23", "12.6 11.8 12.8", (9, 13), "0.22.0", "2.7.0"),
    _release("2.7.1 2025-06-04", "12.6 11.8 12.8", (9, 13), "0.22.1", "2.7.1"),
    _release("2.8.0 2025-08-06", "12.8 12.6 12.9", (9, 13), "0.23.0", "2.8.0"),
    _release("2.9.0 2025-10-15", "12.8 12.6 13.0", (10, 14), "0.24.0", "2.9.0"),
    _release("2.9.1 2025-11-12", "12.8 12.6 13.0", (10, 14), "0.24.1", "2.9.1"),
    _release("2.10.0 2026-01-21", "12.8 12.6 13.0", (10, 14), "0.25.0", "2.10.0"),
    _release("2.11.0 2026-03-23", "13.0 12.6 12.8 12.9", (10, 14), "0.26.0", "2.11.0"),
    _release("2.12.0 2026-05-13", "13.0 12.6 13.2", (10, 14), "0.27.0", "2.11.0"),
    _release("2.12.1 2026-06-17", "13.0 12.6 12.9 13.2", (10, 14), "0.27.1", "2.11.0"),
    _release("2.13.0 2026-07-08", "13.0 12.6 13.2", (10, 14), "0.28.0", "2.11.0"),
    _release("2.14.0 2026-09-02", "13.0 12.6 13.2", (10, 14), "0.29.0", "2.11.0"),
    _release("2.14.1 2026-09-30", "13.0 12.6 13.2", (10, 14), "0.29.1", "2.11.0"),
    _release("2.15.0 2026-10-28", "13.2 13.0", (11, 15), "0.29.2", "2.11.1"),
)
RELEASES: Final = {release.torch: release for release in _TABLE}
