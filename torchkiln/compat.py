"""What goes with which torch: its CUDA builds, its Pythons and its companions.

Facts as data. Collected on 2026-11-23 from:

- the package index and the wheels' own metadata: Python tags, the CUDA of the default wheel
  (`torch/version.py`), the `Requires-Dist` of torchvision and torchaudio;
- pytorch/pytorch RELEASE.md and replicate/cog `pkg/config/torch_compatibility.json` (6110c91): the
  CUDA builds of each release on the PyTorch index.

A new torch is a row of the table. A torch newer than the last row is let through: its facts are
not known here, and `lock` still compares the CUDA of the wheels with the variant's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.utils import NormalizedName
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from packaging.specifiers import SpecifierSet

PYTHON_OF_DEBIAN: Final = {"bookworm": "3.11", "trixie": "3.13"}
"""The Python of each Debian release that can run the wheels (glibc 2.28 from torch 2.7 on)."""


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
        cuda=tuple(sorted([default, *others], key=Version)),
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
    _release("2.15.0 2026-10-28", "13.2 13.0", (11, 15), "0.29.2", "2.11.0"),
)
RELEASES: Final = {release.torch: release for release in _TABLE}


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """A package that must stay below `below` with every torch before `torch_before`."""

    package: NormalizedName
    below: str
    torch_before: str
    reason: str


CEILINGS: Final = (
    # pytorch/pytorch#107302: 2.3.0 is the first release built against NumPy 2.
    Ceiling(
        package=NormalizedName("numpy"),
        below="2",
        torch_before="2.3",
        reason="its wheels were built against NumPy 1, with 2 `Tensor.numpy()` fails",
    ),
    # torch/utils/cpp_extension.py: `from pkg_resources import packaging`, in 2.0.1 and 2.1.2 and no
    # more in 2.2.2; setuptools has since dropped pkg_resources.
    Ceiling(
        package=NormalizedName("setuptools"),
        below="70",
        torch_before="2.2",
        reason="`torch.utils.cpp_extension` needs its pkg_resources",
    ),
)

NEWER_GLIBC_FROM: Final = "2.7"
"""The first torch whose wheels are manylinux_2_28; those before need glibc 2.17, whatever the
`manylinux1` in their names says (pytorch/pytorch RELEASE.md)."""

TORCHAUDIO_PIN_BEFORE: Final = "2.11"
"""torchaudio 2.11.0 names no torch, so a resolver pairs it with any (pytorch/audio#4212)."""


def is_newer(torch: str) -> bool:
    """Return whether `torch` is newer than every release that the facts cover."""
    return Version(torch) > Version(_TABLE[-1].torch)


def end_of(cuda: str) -> str | None:
    """Return the day of the first torch after the last one with `cuda`; None where it goes on."""
    last = max((i for i, one in enumerate(_TABLE) if cuda in one.cuda), default=len(_TABLE))
    following = _TABLE[last + 1 : last + 2]
    return following[0].date if following else None


def glibc_floor(torch: str) -> int:
    """Return the minor version of the oldest glibc (2.28 is 28) that runs the wheels of `torch`."""
    return 28 if Version(torch) >= Version(NEWER_GLIBC_FROM) else 17


def numpy_abi(torch: str) -> str:
    """Return the major version of NumPy that the wheels of `torch` were built against."""
    numpy = next(one for one in CEILINGS if one.package == "numpy")
    return "1" if Version(torch) < Version(numpy.torch_before) else "2"


def build_fault(torch: str, cuda: str | None, index: str | None) -> str | None:
    """Return what is wrong with asking `index` (None: the default one) for this build of torch."""
    release = RELEASES.get(torch)
    if release is None:
        return None
    if cuda is not None and cuda not in release.cuda:
        return f"torch {torch} never had CUDA {cuda}, it had: {', '.join(release.cuda)}"
    if cuda != release.default_cuda and index is None:
        build = f"CUDA {cuda}" if cuda else "the CPU"
        only = f"the default index has torch {torch} for CUDA {release.default_cuda} alone"
        return f"{only}, name an `index` that has it for {build}"
    return None


def python_fault(torch: str, python: str) -> str | None:
    """Return what is wrong with running `torch` on `python`."""
    release = RELEASES.get(torch)
    if release is None or python in release.pythons:
        return None
    had = ", ".join(release.pythons)
    return f"torch {torch} has no wheels for Python {python}, it has: {had}"


def package_faults(
    torch: str, packages: Mapping[NormalizedName, SpecifierSet]
) -> Iterator[tuple[NormalizedName | None, str]]:
    """Yield (package, what is wrong) for requirements that do not go with `torch`.

    The package is None where the fault is that it is missing.
    """
    for ceiling in CEILINGS:
        if Version(torch) >= Version(ceiling.torch_before):
            continue
        right = f"`{ceiling.package}<{ceiling.below}`: {ceiling.reason}"
        if ceiling.package not in packages:
            yield None, f"torch {torch} needs {right}"
        elif admits_from(packages[ceiling.package], ceiling.below):
            yield ceiling.package, f"torch {torch} needs {right}"
    release = RELEASES.get(torch)
    if release is None:
        return
    pairs = {"torchvision": release.torchvision}
    if Version(torch) < Version(TORCHAUDIO_PIN_BEFORE):
        pairs["torchaudio"] = release.torchaudio
    for name, specifier in packages.items():
        if name in pairs and not _pins(specifier, pairs[name]):
            yield name, f"torch {torch} goes with `{name}=={pairs[name]}`"


def _pins(specifier: SpecifierSet, version: str) -> bool:
    """Return whether `specifier` is `==version`, with or without a local part (`+cu117`)."""
    return [(one.operator, one.version.split("+")[0]) for one in specifier] == [("==", version)]


def admits_from(specifier: SpecifierSet, below: str) -> bool:
    """Return whether `specifier` lets in a version that is not before `below`.

    A set of clauses can only change its answer next to a version that it names, so these are tried.
    """
    named = [one.version.removesuffix(".*") for one in specifier]
    candidates = [below, "9999", *named, *(f"{version}.0.1" for version in named)]
    return any(
        Version(version) >= Version(below) and specifier.contains(version) for version in candidates
    )
