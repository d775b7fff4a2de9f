"""What `explain` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torchkiln.reports import megabytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torchkiln.proof.explain import Explanation, Package

_SHOWN: Final = 8  # names of packages that need one


def explained(found: Explanation) -> str:
    """Return each package with the ways that lead to it, and what it is."""
    return "\n\n".join("\n".join(_lines(package)) for package in found.packages)


def _lines(package: Package) -> Iterator[str]:
    yield f"{package.name} {package.version}  {package.purl}"
    yield ""
    for chain in package.chains:
        yield f"  {' > '.join(chain)}"
    yield ""
    for name, reasons in package.asked.items():
        yield f"  {name} is asked for by {', '.join(f'`{one}`' for one in reasons)}"
    yield ""
    facts = {
        "needed by": _names(package.needed_by) or "no other package",
        "licence": package.licence or "not told",
        "size": _size(package),
        "sha256": package.sha256,
        "layer": package.layer,
    }
    for name, text in facts.items():
        if text:
            yield f"  {name:9}  {text}"


def _names(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _size(package: Package) -> str:
    if package.size is None or package.unpacked is None:
        return ""
    return f"{megabytes(package.size)}, {megabytes(package.unpacked)} in the image"
