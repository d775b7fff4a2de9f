"""NVIDIA's drivers: their versions, and which one a CUDA and a GPU need.

Facts as data. Collected on 2026-11-25 from:

- the floors: NVIDIA, "CUDA Compatibility", table of minor-version compatibility, and with the same
  numbers astral-sh/uv crates/uv-torch/src/backend.rs (26a9dd4) `LINUX_CUDA_DRIVERS`;
- the first driver of a GPU: that of the first CUDA toolkit which knows its compute capability
  (NVIDIA, "CUDA Toolkit Release Notes": 8.0, 9.0, 10.0, 11.0, 11.1, 11.8, 12.8, 12.9);
- the last driver of a GPU: NVIDIA, "Unix graphics feature deprecation schedule": release 470 for
  Kepler, release 580 for Maxwell, Pascal and Volta.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from torchkiln.gpus import Capability

Platform = Literal["linux", "windows"]
"""Whose driver it is: in WSL 2 it is that of Windows, with numbers of its own."""

_VERSION: Final = re.compile(r"\d{3}(\.\d+){0,2}")

# By CUDA's major version. Any CUDA of that major runs from this driver on, with the few features
# missing that need a newer one (compiling PTX of a newer toolkit is the one that matters to torch).
_FLOORS: Final[dict[str, dict[Platform, str]]] = {
    "11": {"linux": "450.80.02", "windows": "452.39"},
    "12": {"linux": "525.60.13", "windows": "528.33"},
    "13": {"linux": "580", "windows": "580"},
}

# (compute capability from, first branch); the nearest row at or below counts.
_FIRST: Final[tuple[tuple[Capability, int], ...]] = (
    ((3, 0), 304),
    ((5, 0), 334),
    ((6, 0), 375),
    ((7, 0), 384),
    ((7, 5), 410),
    ((8, 0), 450),
    ((8, 6), 455),
    ((8, 9), 520),
    ((9, 0), 520),
    ((10, 0), 570),
    ((10, 3), 575),
    ((12, 0), 570),
    ((12, 1), 575),
)
# (compute capability below, last branch); a GPU beyond all rows still gets new drivers.
_LAST: Final[tuple[tuple[Capability, int], ...]] = (((5, 0), 470), ((7, 5), 580))


@dataclass(frozen=True, order=True)
class Driver:
    """A driver's version: `535.104.05`, or its branch alone, which is any release of it."""

    numbers: tuple[int, ...]
    text: str

    @property
    def branch(self) -> int:
        """Return the first number."""
        return self.numbers[0]

    def reaches(self, floor: str) -> bool:
        """Tell whether it is `floor` or newer, by as many numbers as both have.

        So `525` reaches 525.60.13: it says that some release of the branch does.
        """
        wanted = tuple(map(int, floor.split(".")))
        return self.numbers >= wanted[: len(self.numbers)]


def parse_driver(text: str) -> Driver | None:
    """Return the driver's version in `text`, None where it is none."""
    if not _VERSION.fullmatch(text):
        return None
    return Driver(tuple(map(int, text.split("."))), text)


def floor(cuda: str, platform: Platform = "linux") -> str:
    """Return the oldest driver that runs `cuda` (major.minor)."""
    return _FLOORS[cuda.partition(".")[0]][platform]


def first_branch(capability: Capability) -> int:
    """Return the first driver branch that knows GPUs of `capability`."""
    return max((row for row in _FIRST if row[0] <= capability), default=_FIRST[0])[1]


def last_branch(capability: Capability) -> int | None:
    """Return the last driver branch for GPUs of `capability`, None where there will be more."""
    return next((branch for below, branch in _LAST if capability < below), None)
