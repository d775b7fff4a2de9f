"""NVIDIA's GPUs by the names that people and drivers give them, and what torch has code for.

Facts as data. Collected on 2026-11-25 from:

- the compute capabilities: NVIDIA, "CUDA GPU Compute Capability";
- the architectures of each build of torch: read in the wheels' own fat binaries where the default
  index has them (`./kiln check-facts` reads them again), else pytorch/builder `build_cuda.sh`
  (release/2.0 to 2.7) and pytorch/pytorch `.ci/manywheel/build_cuda.sh` (00c7a38).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, TypeAlias

from torchkiln.releases import numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

Capability: TypeAlias = tuple[int, int]
"""A GPU's compute capability, or the one that machine code was made for: (8, 6)."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """GPUs that go by one name; `words` are patterns (fnmatch) of whole words in a driver's name.

    They are what a shell's `case` knows too: the entry point of the images reads them.
    """

    label: str
    capability: Capability
    words: tuple[str, ...]


def _model(label: str, capability: str, *words: str) -> Model:
    major, minor = capability.split(".")
    return Model(label=label, capability=(int(major), int(minor)), words=words or (label,))


_DIGIT: Final = "[0-9]"
# The first that fits counts.
MODELS: Final = (
    _model("K80", "3.7"),
    _model("GTX 750", "5.0", "GTX 750", "GTX 745"),
    _model("M60", "5.2", "M4", "M6", "M40", "M60"),
    _model("GTX 9", "5.2", f"GTX 9{_DIGIT}0", f"GTX 9{_DIGIT}0M", "GTX TITAN X"),
    _model("P100", "6.0", "P100", "GP100"),
    _model("P40", "6.1", "P4", "P6", "P40", "P[1-6]000"),
    _model("GTX 10", "6.1", f"GTX 10{_DIGIT}0", "TITAN XP", "TITAN X"),
    _model("V100", "7.0", "V100", "V100S", "GV100", "TITAN V"),
    _model("T4", "7.5", "T4", "T4G", "T400", "T600", "T1000"),
    _model("GTX 16", "7.5", f"GTX 16{_DIGIT}0"),
    _model("RTX 20", "7.5", "RTX 20[5-9]0", "QUADRO RTX", "TITAN RTX"),
    _model("A100", "8.0", "A100", "A800", "A100X"),
    _model("A30", "8.0", "A30", "A30X"),
    _model("A10", "8.6", "A2", "A10", "A10G", "A10M", "A16", "A40"),
    _model("RTX 30", "8.6", "RTX 30[5-9]0"),
    _model("RTX A", "8.6", f"RTX A{_DIGIT}*"),
    _model("L4", "8.9"),
    _model("L40", "8.9", "L40", "L40S", "L40G", "L20"),
    _model("RTX 40", "8.9", "RTX 40[5-9]0", "ADA"),
    _model("H100", "9.0", "H100", "H800", "H20"),
    _model("H200", "9.0", "H200", "GH200"),
    _model("B200", "10.0", "B100", "B200", "GB200"),
    _model("B300", "10.3", "B300", "GB300"),
    _model("RTX 50", "12.0", "RTX 50[5-9]0"),
    _model("RTX PRO", "12.0", "RTX PRO"),
    _model("GB10", "12.1"),
)

FAMILIAR: Final = (
    *("K80", "P100", "GTX 10", "V100", "T4", "A100", "RTX 30", "L40", "RTX 40", "H100", "B200"),
    "RTX 50",
)
"""The labels that tables show: one or two of each generation."""

_OLD: Final = "5.0 6.0 7.0 7.5 8.0 8.6"
_NEW: Final = "7.5 8.0 8.6 9.0 10.0 12.0"
# (CUDA, torch from, torch to, machine code for). None of the default index's wheels holds PTX, so
# that no build runs on a GPU whose major version it has no code for.
_BUILDS: Final = (
    ("11.7", "1.13.0", "2.0.1", f"3.7 {_OLD}"),
    ("11.8", "2.0.0", "2.7.1", f"3.7 {_OLD} 9.0"),
    ("12.1", "2.1.0", "2.5.1", f"{_OLD} 9.0"),
    ("12.4", "2.4.0", "2.6.0", f"{_OLD} 9.0"),
    ("12.6", "2.6.0", "2.14.1", f"{_OLD} 9.0"),
    ("12.8", "2.7.0", "2.7.1", _NEW),
    ("12.8", "2.8.0", "2.10.0", f"7.0 {_NEW}"),
    ("12.8", "2.11.0", "2.11.0", _NEW),
    ("12.9", "2.8.0", "2.12.1", f"7.0 {_NEW}"),
    ("13.0", "2.9.0", "2.15.0", _NEW),
    ("13.2", "2.12.0", "2.15.0", _NEW),
)


def capability_of(name: str) -> Capability | None:
    """Return the compute capability of the GPU that a driver or a person calls `name`."""
    model = model_of(name)
    return model.capability if model else None


def model_of(name: str) -> Model | None:
    """Return the model of `NVIDIA A100-SXM4-40GB`, `Tesla V100`, `rtx4090`; None where unknown."""
    spaced = re.sub(r"\b([GR]TX)(\d)", r"\1 \2", name.upper().replace("-", " "))
    return next(
        (
            model
            for model in MODELS
            if any(fnmatchcase(f" {spaced} ", f"* {word.upper()} *") for word in model.words)
        ),
        None,
    )


def architectures(torch: str, cuda: str) -> tuple[Capability, ...]:
    """Return what the build has machine code for; the newest row of `cuda` for a newer torch.

    Empty where nothing is known of it.
    """
    rows = [row for row in _BUILDS if row[0] == cuda and numbers(row[1]) <= numbers(torch)]
    if not rows:
        return ()
    texts = (arch.split(".") for arch in rows[-1][3].split())
    return tuple((int(major), int(minor)) for major, minor in texts)


def cudas(torch: str) -> list[str]:
    """Return the CUDAs that the release `torch` was built with, the oldest first."""
    wanted = numbers(torch)
    return [cuda for cuda, first, last, _ in _BUILDS if numbers(first) <= wanted <= numbers(last)]


def last_releases() -> list[tuple[str, str]]:
    """Return each CUDA with the last torch that was built with it, the oldest CUDA first."""
    return list({cuda: last for cuda, _, last, _ in _BUILDS}.items())


def runs_on(archs: Iterable[Capability], capability: Capability) -> bool:
    """Tell whether code for any of `archs` runs on a GPU of `capability`.

    Machine code runs on its own major version from its minor version on: 8.6 on 8.9 (CUDA C++
    Programming Guide, "Binary Compatibility"). The suite in the images, which can use nothing of
    this package, has the rule in smoke/devices.py.
    """
    return any(major == capability[0] and minor <= capability[1] for major, minor in archs)


def without_code(torch: str, cuda: str) -> list[str]:
    """Return patterns of the names, in capitals, of the GPUs that this build cannot run on."""
    archs = architectures(torch, cuda)
    return [
        word.upper()
        for model in MODELS
        if archs and not runs_on(archs, model.capability)
        for word in model.words
    ]


def shown(capability: Capability) -> str:
    """Return `8.6`."""
    return f"{capability[0]}.{capability[1]}"
