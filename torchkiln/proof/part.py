"""A part of an image: what the SBOM says of one wheel or one Debian package."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A distribution inside another one's wheel, with its own METADATA at the absolute `path`."""

    name: str
    version: str
    purl: str
    licences: tuple[dict[str, Any], ...]
    path: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A wheel or a Debian package of an image; `purl` names it in the SBOM.

    `size` is that of the wheel or .deb and `unpacked` that of its files, in bytes. `paths` are its
    files (absolute), `needs` the purls of its dependencies, `asked` what asks for it by itself: a
    key of the catalog with its value, or a rule of the base. `supplier` is who made this build of
    it, which wheels do not tell.
    """

    name: str
    version: str
    purl: str
    sha256: str
    size: int
    unpacked: int
    licences: tuple[dict[str, Any], ...]
    layer: str
    paths: tuple[str, ...]
    needs: tuple[str, ...]
    asked: tuple[str, ...]
    author: str = ""
    supplier: str = ""
    bundled: tuple[Bundled, ...] = ()


def purl(kind: str, name: str, version: str, **qualifiers: str) -> str:
    """Return a package URL (ECMA-427); `kind` is its type and namespace: `deb/debian`."""
    words = "&".join(f"{key}={quote(text, safe=':')}" for key, text in sorted(qualifiers.items()))
    text = f"pkg:{kind}/{quote(name, safe='')}@{quote(version, safe=':')}"
    return f"{text}?{words}" if words else text


def own_places(paths: Mapping[str, Iterable[str]], shared: Iterable[str]) -> dict[str, list[str]]:
    """Return for each owner the fewest places that hold its `paths` and nobody else's files.

    A folder stands for all that is in it where one owner has all of it; so torch's 12 000 files are
    one line, and whoever looks a file up follows its folders. `shared` folders stand for nobody.
    """
    owners: dict[str, set[str]] = defaultdict(set)
    for owner, files in (*paths.items(), ("", shared)):
        for path in files:
            for step in _steps(path):
                owners[step].add(owner)

    def highest(path: str) -> str:
        own = [step for step in _steps(path) if len(owners[step]) == 1]
        return own[-1] if own else path

    return {owner: sorted({highest(path) for path in files}) for owner, files in paths.items()}


def _steps(path: str) -> Iterator[str]:
    """Give an absolute path and then the folders above it; strings, because they are many."""
    while path:
        yield path
        path = path.rpartition("/")[0]
