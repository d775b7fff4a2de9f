"""Choose one wheel for each pinned distribution, as pip would on the base's Python."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from torchkiln.errors import FetchError, LockError
from torchkiln.index import Finder, Link, Source
from torchkiln.lockfile import DEFAULT_SOURCE, LockedWheel
from torchkiln.urls import is_file, local_path, redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.reach import Reach
    from torchkiln.transport import Transport

_THREADS: Final = 8
_CHUNK: Final = 1 << 20
_ALIASES: Final = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""The older name of manylinux_2_<minor> (PEP 600)."""


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """A wheel of the right version that fits; a lower `rank` is a more specific tag."""

    link: Link
    source: Source
    rank: int
    build: tuple[()] | tuple[int, str]


def supported_tags(python: str, glibc_minor: int) -> dict[Tag, int]:
    """Return the tags of wheels that run on CPython `python` and glibc 2.`glibc_minor`, ranked."""
    platforms = []
    for minor in range(glibc_minor, 4, -1):
        platforms.append(f"manylinux_2_{minor}_x86_64")
        if minor in _ALIASES:
            platforms.append(f"{_ALIASES[minor]}_x86_64")
    platforms.append("linux_x86_64")
    version = tuple(int(part) for part in python.split("."))
    interpreter = f"cp{version[0]}{version[1]}"
    tags = [
        *cpython_tags(version, [interpreter], platforms),
        *compatible_tags(version, interpreter, platforms),
    ]
    return {tag: rank for rank, tag in enumerate(tags)}


def choose_wheels(
    pins: Mapping[str, str],
    tags: Mapping[Tag, int],
    reach: Reach,
    named: str | None,
    transport: Transport,
) -> tuple[LockedWheel, ...]:
    """Return a wheel for each of `pins` (name to version), sorted by name.

    `named` is the variant's own index, by its name in the catalog, whether it answers or not.
    Raise `LockError` where no wheel fits or its hash is not told.
    """
    chooser = _Chooser(tags, reach, named, transport)
    with ThreadPoolExecutor(_THREADS) as pool:
        return tuple(pool.map(chooser.choose, sorted(pins), (pins[name] for name in sorted(pins))))


class _Chooser:
    """Chooses wheels in several threads."""

    def __init__(
        self, tags: Mapping[Tag, int], reach: Reach, named: str | None, transport: Transport
    ) -> None:
        self._tags = tags
        self._indexes = reach.indexes
        # Indexes first: they tell hashes.
        self._sources = (*reach.indexes, *([reach.named] if reach.named else []), *reach.pages)
        self._named = named
        self._transport = transport
        self._finder = Finder(transport)

    def choose(self, name: str, version: str) -> LockedWheel:
        """Return the best wheel of this version."""
        offers = self._offers(name, version)
        # `max` takes the first of equals: the copy on the user's own index.
        best = max(offers, key=lambda offer: (-offer.rank, offer.build))
        link = best.link
        return LockedWheel(
            name=name,
            version=version,
            file=link.filename,
            size=self._size(link),
            sha256=self._sha256(link),
            source=self._source(version, offers),
        )

    def _offers(self, name: str, version: str) -> list[_Offer]:
        """Return the wheels that fit, at least one."""
        failures: list[FetchError] = []
        links = [
            (link, source)
            for source in self._sources
            for link in self._finder.search(name, [source], failures)
        ]
        wanted = Version(version)
        offers = [offer for pair in links if (offer := self._offer(*pair, wanted)) is not None]
        if not offers:
            what = f"no wheel of `{name}` {version} can be locked"
            reasons = [_reason(link) for link, _ in links if f"-{version}-" in link.filename]
            reasons += [f"{error.what}: {error.why}" for error in failures]
            raise LockError(what, "\n".join(reasons) or "no source offers this version")
        return offers

    def _offer(self, link: Link, source: Source, version: Version) -> _Offer | None:
        try:
            _, actual, build, tags = parse_wheel_filename(link.filename)
        except InvalidWheelFilename:  # an sdist, an egg, a signature
            return None
        ranks = [self._tags[tag] for tag in tags if tag in self._tags]
        if actual != version or link.yanked or not ranks:
            return None
        return _Offer(link=link, source=source, rank=min(ranks), build=build)

    def _source(self, version: str, offers: list[_Offer]) -> str:
        """Return where everyone else gets the wheel.

        A local version (`2.13.0+cpu`) is on no public index (PEP 440), whoever has a copy of it.
        """
        is_public = Version(version).local is None
        is_default = is_public and any(offer.source in self._indexes for offer in offers)
        return DEFAULT_SOURCE if is_default or self._named is None else self._named

    def _size(self, link: Link) -> int:
        """Return the size in bytes; where an index tells none (HTML), the file's server does."""
        if link.size is not None:
            return link.size
        if is_file(link.url):
            return local_path(link.url).stat().st_size
        label = redact(link.url)
        length = self._transport.retrying(lambda: self._content_length(link.url), label)
        if length is None:
            what = f"the size of `{link.filename}` is not known"
            raise LockError(what, f"neither its index nor its server tells: {label}")
        return int(length)

    def _content_length(self, url: str) -> str | None:
        _, response = self._transport.open(url, {"Accept-Encoding": "identity"})
        response.close()
        return response.headers.get("Content-Length")

    def _sha256(self, link: Link) -> str:
        if link.sha256 is not None:
            return link.sha256
        if not is_file(link.url):
            what = f"the hash of `{link.filename}` is not known"
            raise LockError(what, f"its index tells no sha256: {redact(link.url)}")
        sha256 = hashlib.sha256()
        try:
            with local_path(link.url).open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    sha256.update(chunk)
                return sha256.hexdigest()
        except OSError as error:
            what = f"cannot read {link.url}"
            raise FetchError(what, error.strerror or str(error)) from None


def _reason(link: Link) -> str:
    why = "yanked" if link.yanked else "does not fit the base's Python and glibc"
    return f"{link.filename}: {why}"
