"""What packages of conda need of the machine: its driver, its glibc, its kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torchkiln.conda import rattler
from torchkiln.errors import CondaError
from torchkiln.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torchkiln.catalog import Variant
    from torchkiln.conda.rattler import Package

_CHECKED: Final = ("__cuda", "__glibc", "__linux")


def check_machine(
    variant: Variant, packages: Sequence[Package], machine: Mapping[str, str]
) -> None:
    """Tell of a driver that is missing or too old; a system that is too old is an error."""
    found = list(unmet(packages, machine))
    system = [line for name, line in found if name != "__cuda"]
    if system:
        what = f"this machine's system is too old for the conda environment of `{variant.id}`"
        hint = f"./kiln build {variant.flag}, whose image brings its own"
        raise CondaError(what, "\n".join(system), hint)
    for line in dict.fromkeys(line for name, line in found if name == "__cuda"):
        say(f"torch is the build for CUDA {variant.cuda}, as locked, but will not run here: {line}")


def unmet(packages: Sequence[Package], machine: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each need that this machine does not meet, and what is to be said of it."""
    needs: dict[str, Package] = {}
    for package in packages:
        for spec in filter(_is_checked, package.constrains):
            needs.setdefault(spec, package)
        # A dependency is the stronger: it is unmet too where there is nothing of the name.
        needs |= dict.fromkeys(filter(_is_checked, package.depends), package)
    for spec, package in sorted(needs.items(), key=lambda item: item[0]):
        name = next(one for one in _CHECKED if spec.startswith(one))
        if name not in machine:
            if spec in package.depends:
                yield name, f"{package} needs `{spec}`, and there is none"
        elif not rattler.fits(spec, name, machine[name]):
            yield name, f"{package} needs `{spec}`, and this is {machine[name]}"


def _is_checked(spec: str) -> bool:
    return spec.startswith(_CHECKED)
