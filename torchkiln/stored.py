"""What lies in the store, thing by thing: of which kind it is, and which bytes on disk it has."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from stat import S_ISDIR
from typing import TYPE_CHECKING, Final, Literal

from torchkiln import flock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from torchkiln.store import Store

Kind = Literal[
    "wheels",
    "debs",
    "conda packages",
    "layers",
    "documents",
    "bytecode",
    "images",
    "trees",
    "partial downloads",
    "records",
    "reports",
    "leftovers",
]
KINDS: Final[tuple[Kind, ...]] = Kind.__args__  # type: ignore[attr-defined]
_BEGINNINGS: Final[dict[bytes, Kind]] = {
    b"PK": "wheels",
    b"!<arch>": "debs",
    b"\x1f\x8b": "layers",
    b"\x28\xb5\x2f\xfd": "layers",
    b"{": "documents",
}
_BLOCK: Final = 512  # bytes: stat's unit for what a file takes on disk


@dataclass(frozen=True, kw_only=True, order=True)
class Thing:
    """A file or folder that is kept or goes as a whole."""

    kind: Kind
    path: Path


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes on disk: what a thing takes, and what of it becomes free when it goes."""

    size: int
    freed: int


def things(store: Store) -> list[Thing]:
    """Return all that lies in the store but its locks, what has several names first as a blob."""
    found = [Thing(kind=_kind(path), path=path) for path in _entries(store.blobs)]
    kinds: tuple[tuple[Kind, str], ...] = (
        ("images", "images"),
        ("trees", "trees"),
        ("partial downloads", store.partials.name),
        ("reports", "reports"),
    )
    for kind, name in kinds:
        found += [Thing(kind=kind, path=path) for path in _entries(store.root / name)]
    for folder in _entries(store.root / "records"):
        found += [Thing(kind="records", path=path) for path in _entries(folder)]
    packages = store.root / "conda" / "packages"  # py-rattler's: folders, and a lock beside each
    found += [Thing(kind="conda packages", path=path) for path in _entries(packages)]
    with store.reporting():
        found += [Thing(kind="leftovers", path=path) for path in _leftovers(store.root / "tmp")]
    return found


def room(
    found: Sequence[Thing],
    going: Collection[Thing],
    advance: Callable[[int], object] = lambda _: None,
) -> dict[Thing, Room]:
    """Return what each of the things takes where `going` are to go.

    A file with several names counts for the first of the things that it is in, and becomes free
    with its last name, of which some may be outside the store.
    """
    files: dict[tuple[int, int], tuple[Thing, int, int]] = {}
    leaving: Counter[tuple[int, int]] = Counter()
    for thing in found:
        for status in _statuses(thing.path):
            names = 1 if S_ISDIR(status.st_mode) else status.st_nlink
            size = status.st_blocks * _BLOCK
            inode = status.st_dev, status.st_ino
            files.setdefault(inode, (thing, size, names))
            leaving[inode] += thing in going
            advance(size)
    sizes: Counter[Thing] = Counter()
    freed: Counter[Thing] = Counter()
    for inode, (thing, size, names) in files.items():
        sizes[thing] += size
        freed[thing] += size if leaving[inode] >= names else 0
    return {thing: Room(size=sizes[thing], freed=freed[thing]) for thing in found}


def _kind(blob: Path) -> Kind:
    """Tell by its first bytes what a blob is; what none of them fits is bytecode."""
    with blob.open("rb") as stream:
        head = stream.read(8)
    return next((kind for sign, kind in _BEGINNINGS.items() if head.startswith(sign)), "bytecode")


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _leftovers(folder: Path) -> Iterator[Path]:
    """Give the lock files, and the folders beside them, of work whose process is gone."""
    for path in sorted(folder.glob("*.lock")):
        with suppress(FileNotFoundError), path.open("rb") as stream:
            if not flock.try_acquire(stream.fileno(), shared=True):
                continue
            yield path
            if path.with_suffix("").exists():
                yield path.with_suffix("")


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Give what is known of a file, or of a folder and all below it; what goes meanwhile is not."""
    with suppress(FileNotFoundError):
        yield path.lstat()
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            with suppress(FileNotFoundError):
                yield os.lstat(f"{folder}/{name}")
