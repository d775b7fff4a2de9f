"""What goes with which torch: its CUDA builds, its Pythons and its companions.

The releases themselves are in releases.py. A torch newer than the last is let through: its
facts are not known here, and `lock` still compares the CUDA of the wheels with the variant's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.utils import NormalizedName
from packaging.version import Version

from torchkiln.releases import RELEASES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from packaging.specifiers import SpecifierSet

PYTHON_OF_DEBIAN: Final = {"bookworm": "3.11", "trixie": "3.13"}
"""The Python of each Debian release that can run the wheels (glibc 2.28 from torch 2.7 on)."""


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
    return Version(torch) > Version(list(RELEASES)[-1])


def end_of(cuda: str) -> str | None:
    """Return the day of the first torch after the last one with `cuda`; None where it goes on."""
    table = list(RELEASES.values())
    last = max((i for i, one in enumerate(table) if cuda in one.cuda), default=len(table))
    following = table[last + 1 : last + 2]
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
