"""Read the single values of the catalog: each returns what stands there and notes its faults."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name

from torchkiln import compat
from torchkiln.errors import did_you_mean
from torchkiln.releases import RELEASES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from packaging.specifiers import SpecifierSet

    from torchkiln.places import Place

_VERSION: Final = re.compile(r"[0-9]+(\.[0-9]+){1,2}")
_MAJOR_MINOR: Final = re.compile(r"[0-9]+\.[0-9]+")
_DEBIAN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian Policy 5.6.1
_INDEX_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def items(fields: dict[str, Place], name: str) -> list[Place]:
    """Return the places of the list under `name`, none where it is missing."""
    return fields[name].items() if name in fields else []


def debian_package(place: Place) -> str:
    """Read the name of a Debian package."""
    name = place.text()
    if name and not _DEBIAN_NAME.fullmatch(name):
        place.fault(f"not the name of a Debian package: `{name}`")
    return name


def indexes(place: Place) -> dict[str, str]:
    """Read the named indexes: their URLs without a slash at the end."""
    urls = {}
    for name, entry in place.entries().items():
        url = entry.text()
        if not _INDEX_NAME.fullmatch(name) or name == "default":
            entry.fault("an index is named by lower case, digits and dashes, and not `default`")
        if url and not _is_web(url):
            entry.fault(f"not the URL of an index: `{url}`")
        urls[name] = url.rstrip("/")
    return urls


def _is_web(url: str) -> bool:
    """Return whether `url` names a server; brackets that hold no IPv6 address make none of it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc)


def torch(place: Place, python: str) -> str:
    """Read torch's version; return "" where it is none."""
    version = place.text()
    if not version:
        return ""
    nearest = did_you_mean(version, RELEASES)
    if not _VERSION.fullmatch(version):
        place.fault(f"not a version like `2.0.1`: `{version}`{nearest}")
        return ""
    if version not in RELEASES and not compat.is_newer(version):
        place.fault(f"there is no release {version} of torch{nearest}")
        return ""
    if python:
        place.fault_if(compat.python_fault(version, python))
    return version


def cuda(place: Place) -> str:
    """Read a CUDA version; return "" where it is none."""
    version = place.text()
    if version and not _MAJOR_MINOR.fullmatch(version):
        digits = version.lower().removeprefix("cu")
        known = sorted({one for release in RELEASES.values() for one in release.cuda})
        nearest = did_you_mean(f"{digits[:-1]}.{digits[-1:]}", known)
        place.fault(f"not a CUDA version like `11.7`: `{version}`{nearest}")
        return ""
    return version


def check_id(name: str, place: Place, cuda: str | None) -> None:
    """Note a fault where the id of a variant does not say its CUDA."""
    expected = f"cu{cuda.replace('.', '')}" if cuda else "cpu"
    if name != expected:
        having = f"CUDA {cuda}" if cuda else "no `cuda`"
        place.fault(f"the id disagrees with `cuda`: a variant with {having} is `{expected}`")


def end_of_life(
    variant: Place, fields: dict[str, Place], cuda: str | None, later: Sequence[str]
) -> tuple[str | None, str | None]:
    """Read `ended` and `replacement`: both or none, not at odds with the facts, one of `later`."""
    ended = fields["ended"].text() if "ended" in fields else None
    replacement = fields["replacement"].text() if "replacement" in fields else None
    known = compat.end_of(cuda) if cuda else None
    if ended and ended != known:
        having = f"CUDA {cuda}" if cuda else "a variant without CUDA"
        right = f'ended on "{known}"' if known else "has not ended"
        fields["ended"].fault(f"by the releases that are known, {having} {right}")
    if (ended is None) != (replacement is None):
        variant.fault("`ended` and `replacement` go together")
    if replacement and replacement not in later:
        text = f"not a variant after this one: `{replacement}`{did_you_mean(replacement, later)}"
        fields["replacement"].fault(text)
    return ended, replacement


def requirements(variant: Place, places: Sequence[Place], torch: str) -> tuple[str, ...]:
    """Read the companions, each by itself and then all against `torch` ("" where unknown)."""
    specifiers: dict[NormalizedName, SpecifierSet] = {}
    found: dict[NormalizedName, Place] = {}
    for place in places:
        requirement = _requirement(place)
        if requirement is None:
            continue
        name = canonicalize_name(requirement.name)
        if name in found:
            place.fault(f"`{name}` is given twice, first on line {found[name].line}")
        else:
            found[name] = place
            specifiers[name] = requirement.specifier
    if torch:
        for fault_name, text in compat.package_faults(torch, specifiers):
            (found[fault_name] if fault_name else variant).fault(text)
    return tuple(place.text() for place in found.values())


def _requirement(place: Place) -> Requirement | None:
    """Read one PEP 508 requirement; return None where it is none or not for this list."""
    text = place.text()
    if not text:
        return None
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        place.fault(f"not a requirement: `{text}`: {str(error).splitlines()[0]}")
        return None
    if requirement.url:
        place.fault(f"`{text}` names a URL, but wheels come from an index")
    if canonicalize_name(requirement.name) == "torch":
        place.fault("torch's version is the key `torch` of the variant")
        return None
    return requirement
