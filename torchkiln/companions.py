"""Packages that are built for one torch: torchvision, torchaudio, TorchCodec and torchtext.

They link to torch's own libraries, a build for CUDA to CUDA's runtime too. Their metadata names the
release of torch at best and never the build, so that a resolver puts a build for CUDA beside a
torch for CPUs, where the import fails. The build is told by `__version__` in the package's own
version.py: `0.28.0+cu130`, also where the distribution calls itself `0.28.0`.

Measured in the default index's wheels for Linux on x86_64 (2026-11-30): Requires-Dist, version.py,
the libraries and symbols that the extensions need, the comparison of CUDA versions at import.
Which torch a TorchCodec is for: the table in its README. torchtext ended with 0.18.0, which asks
for torch>=2.3.0 and fails from 2.4 on (pytorch/text#2272).

Needs nothing but the standard library: the doctor reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchkiln.releases import RELEASES, numbers

if TYPE_CHECKING:
    from pathlib import Path

COMPANIONS: Final = ("torchaudio", "torchcodec", "torchtext", "torchvision")

# From this release on they use torch's stable ABI, which goes with that torch and any later one.
_STABLE: Final = {"torchaudio": ("2.11", "2.11"), "torchvision": ("0.29.1", "2.14")}
# Before this release they compare the minor version of CUDA as well, after it the major one alone.
_MINOR_BEFORE: Final = {"torchaudio": (2, 11, 1), "torchvision": (0, 16)}
# Their builds for CPUs work beside a torch for CUDA too; the others lack operators for the GPU.
_ON_CPU: Final = {"torchcodec", "torchtext"}

_BUILD: Final = re.compile(r"cpu|cu\d{3}")


@dataclass(frozen=True, kw_only=True)
class Series:
    """The releases from `first` to before `below`, for torch from `torch` to before `torch_below`.

    `build` is that of the default index's wheels.
    """

    first: str
    below: str
    torch: str
    torch_below: str
    build: str

    def has(self, version: str) -> bool:
        """Tell whether `version` is one of them."""
        return numbers(self.first) <= numbers(version) < numbers(self.below)

    def is_for(self, torch: str) -> bool:
        """Tell whether they are made for this release of torch."""
        return numbers(self.torch) <= numbers(torch) < numbers(self.torch_below)


def _series(versions: str, torch: str, build: str = "cpu") -> Series:
    """Read a row of the table."""
    first, below = versions.split()
    oldest, torch_below = torch.split()
    return Series(first=first, below=below, torch=oldest, torch_below=torch_below, build=build)


_SERIES: Final = {
    "torchcodec": (
        _series("0.0.3 0.1", "2.4 2.5"),
        _series("0.1 0.2", "2.5 2.6"),
        _series("0.2 0.3", "2.6 2.7"),
        _series("0.3 0.6", "2.7 2.8"),
        _series("0.6 0.8", "2.8 2.9"),
        _series("0.8 0.10", "2.9 2.10"),
        _series("0.10 0.11", "2.10 2.11"),
        _series("0.11 0.11.1", "2.11 2.12", "cu130"),
        _series("0.11.1 0.12", "2.11 2.12"),
        _series("0.12 0.14", "2.11 3"),
        _series("0.14 0.18", "2.11 3", "cu130"),
    ),
    "torchtext": (
        _series("0.15 0.16", "2.0 2.1"),
        _series("0.16 0.17", "2.1 2.2"),
        _series("0.17 0.18", "2.2 2.3"),
        _series("0.18 0.19", "2.3 2.4"),
    ),
}


def requirement(name: str, torch: str, cuda: str | None) -> str | None:
    """Return what of `name` goes with a build of torch: `torchvision==0.28.0+cpu`.

    `torch` has its local version where it is of the PyTorch index, whose torchvision and torchaudio
    bear the same. None is returned where nothing goes with it, "" where nothing is known.
    """
    release, _, local = torch.partition("+")
    if release not in RELEASES:
        return ""
    if paired := _paired(name, release):
        return f"{name}=={paired}+{local}" if local else f"{name}=={paired}"
    fitting = [
        one
        for one in _SERIES[name]
        if one.is_for(release) and _runs(name, one.first, one.build, cuda)
    ]
    return f"{name}>={fitting[-1].first},<{fitting[-1].below}" if fitting else None


def misfit(name: str, version: str, folder: Path, torch: str, cuda: str | None) -> str:
    """Return why the companion in `folder` fails beside a build of torch, "" where it does not.

    It is `for CUDA 13.0`, `for CPUs` or `for another torch`.
    """
    release = torch.partition("+")[0]
    if release not in RELEASES:
        return ""
    if not _goes_with(name, version, release):
        return "for another torch"
    build = _build(name, version, folder)
    if _runs(name, version, build, cuda):
        return ""
    return f"for CUDA {build[2:4]}.{build[4:]}" if build.startswith("cu") else "for CPUs"


def _paired(name: str, release: str) -> str:
    """Return the one version of `name` that is made for a torch, "" where it goes by series."""
    one = RELEASES[release]
    return {"torchaudio": one.torchaudio, "torchvision": one.torchvision}.get(name, "")


def _goes_with(name: str, version: str, release: str) -> bool:
    """Tell whether the metadata and the ABI of `version` let it go with this torch."""
    if paired := _paired(name, release):
        stable, oldest = map(numbers, _STABLE[name])
        either = numbers(version) >= stable and numbers(release) >= oldest
        return either or version.partition("+")[0] == paired
    found = [one for one in _SERIES[name] if one.has(version)]
    return not found or found[0].is_for(release)


def _build(name: str, version: str, folder: Path) -> str:
    """Return `cpu` or `cu130`, "" where neither the package nor its version tells it."""
    try:
        text = (folder / name / "version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    match = re.search(r"""^__version__ = ['"][^'"+]*\+(\w+)""", text, re.MULTILINE)
    label = match[1] if match else version.partition("+")[2]
    return label if _BUILD.fullmatch(label) else ""


def _runs(name: str, version: str, build: str, cuda: str | None) -> bool:
    """Tell whether `build` runs beside a torch for `cuda`; one that is not told is let through."""
    if not build:
        return True
    if build == "cpu":
        return not cuda or name in _ON_CPU
    if not cuda:
        return False
    parts = 2 if numbers(version) < _MINOR_BEFORE.get(name, ()) else 1
    return (int(build[2:4]), int(build[4:]))[:parts] == numbers(cuda)[:parts]
