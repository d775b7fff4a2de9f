"""The tables of a squashfs: inodes, directories, fragments, owners, and the superblock.

All numbers are little-endian. A table is a row of metadata blocks of 8 KiB, each compressed; a
reference into it is the place of the block among the packed bytes and an offset in the unpacked
block. Names and constants are those of Linux, `fs/squashfs/squashfs_fs.h`.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from torchkiln.layer import MTIME, Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK: Final = 1 << 17  # the default of mksquashfs, which every reader has seen
SUPERBLOCK: Final = 96
_METADATA: Final = 8192
# Not ISA-L, which is four times as fast: given one block at a time, two runs of it gave different
# bytes (the same contents, other matches). zlib's depend on its version and on nothing else.
_LEVEL: Final = 1
_MAGIC: Final = 0x73717368
_GZIP: Final = 1
_NO_XATTRS: Final = 0x200
_STORED: Final = 1 << 24  # in the size of a block: it is not compressed
_STORED_METADATA: Final = 1 << 15
_NONE: Final = 0xFFFFFFFF
_NO_TABLE: Final = 0xFFFFFFFFFFFFFFFF
_DIRECTORY, _FILE, _LINK, _LONG_DIRECTORY, _LONG_FILE = 1, 2, 3, 8, 9
_GROUP: Final = 256  # entries of a directory under one header
_FAR: Final = 1 << 15  # an entry's inode number is within this of its header's


@dataclass
class Run:
    """Blocks that lie one after the other: where, and the packed size of each with its flag."""

    start: int = 0
    sizes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Inode:
    """An entry and where its contents lie: blocks of its own, or a place in a shared one."""

    entry: Entry
    run: Run = field(default_factory=Run)
    fragment: int = _NONE
    offset: int = 0


def pack(data: bytes) -> tuple[bytes, int]:
    """Compress a block; return its bytes, plain where packing gains nothing, and its size field."""
    packed = zlib.compress(data, _LEVEL)
    return (packed, len(packed)) if len(packed) < len(data) else (data, len(data) | _STORED)


def tables(inodes: Sequence[Inode], fragments: Sequence[Run], start: int) -> tuple[bytes, bytes]:
    """Return the superblock, and all tables as they stand from byte `start` on."""
    tree = _Tree(inodes)
    root = tree.add("", 0o755)
    tail = tree.inodes.finish()
    directories = start + len(tail)
    tail += tree.directories.finish()
    entries = [struct.pack("<QII", run.start, run.sizes[0], 0) for run in fragments]
    tail, fragment_table = _indexed(tail, start, entries)
    tail, owners = _indexed(tail, start, [struct.pack("<I", 0)])
    head = struct.pack(
        "<5I6H8Q",
        *(_MAGIC, tree.count, MTIME, BLOCK, len(fragments)),
        *(_GZIP, BLOCK.bit_length() - 1, _NO_XATTRS, 1, 4, 0),
        *(root, start + len(tail), owners, _NO_TABLE),
        *(start, directories, fragment_table, _NO_TABLE),
    )
    return head, tail


def _indexed(tail: bytes, start: int, entries: Sequence[bytes]) -> tuple[bytes, int]:
    """Add a table that is found through an index of its blocks; return where the index lies."""
    table = _Table()
    for entry in entries:
        table.add(entry)
    packed = table.finish()
    places = [start + len(tail) + place for place in table.places]
    tail += packed
    return tail + struct.pack(f"<{len(places)}Q", *places), start + len(tail)


class _Table:
    """Metadata blocks, filled one after the other."""

    def __init__(self) -> None:
        self._open = bytearray()
        self._packed = bytearray()
        self.places: list[int] = []

    def add(self, data: bytes) -> int:
        """Append `data`; return the reference to it."""
        reference = self.reference
        self._open += data
        while len(self._open) >= _METADATA:
            self._close()
        return reference

    @property
    def reference(self) -> int:
        """Return the reference to what is added next."""
        return len(self._packed) << 16 | len(self._open)

    def finish(self) -> bytes:
        """Return the whole table."""
        if self._open:
            self._close()
        return bytes(self._packed)

    def _close(self) -> None:
        self.places.append(len(self._packed))
        data, size = pack(bytes(self._open[:_METADATA]))
        if size & _STORED:
            size = len(data) | _STORED_METADATA
        self._packed += struct.pack("<H", size) + data
        del self._open[:_METADATA]


@dataclass(frozen=True)
class _Child:
    """What a directory says of an entry: its name, type and number, and where its inode lies."""

    name: bytes
    type: int
    number: int
    reference: int


class _Tree:
    """Inodes and directories, what is inside before what it is in: a directory refers to both."""

    def __init__(self, inodes: Sequence[Inode]) -> None:
        self._names: dict[str, list[Inode]] = defaultdict(list)
        for inode in inodes:
            self._names[inode.entry.path.rpartition("/")[0]].append(inode)
        self._last = len(inodes) + 1  # the number of the root
        self._numbers = {inode.entry.path: n for n, inode in enumerate(inodes, 1)}
        self._numbers[""] = self._last
        self.count = self._last
        self.inodes = _Table()
        self.directories = _Table()

    def add(self, path: str, mode: int) -> int:
        """Write the directory at `path` and all below it; return the reference to its inode."""
        below = sorted(self._names[path], key=lambda inode: inode.entry.path.encode())
        children = [self._child(inode) for inode in below]
        listing = _listing(children)
        place = self.directories.add(listing)
        block, offset = place >> 16, place & 0xFFFF
        links = 2 + sum(child.type == _DIRECTORY for child in children)
        size = len(listing) + 3  # as if `.` and `..` were in it
        # The root is in no directory, and says so by a number that no inode has.
        parent = self._numbers[path.rpartition("/")[0]] if path else self._last + 1
        if size <= 0xFFFF:  # noqa: PLR2004 - a field of 16 bits
            body = struct.pack("<IIHHI", block, links, size, offset, parent)
            return self._inode(_DIRECTORY, path, mode, body)
        body = struct.pack("<IIIIHHI", links, size, block, parent, 0, offset, _NONE)
        return self._inode(_LONG_DIRECTORY, path, mode, body)

    def _child(self, inode: Inode) -> _Child:
        entry = inode.entry
        if entry.is_directory:
            kind, reference = _DIRECTORY, self.add(entry.path, entry.mode)
        elif entry.target is not None:
            target = entry.target.encode()
            body = struct.pack("<II", 1, len(target)) + target
            kind, reference = _LINK, self._inode(_LINK, entry.path, entry.mode, body)
        else:
            kind, reference = _FILE, self._file(inode)
        name = entry.path.rpartition("/")[2].encode()
        return _Child(name, kind, self._numbers[entry.path], reference)

    def _file(self, inode: Inode) -> int:
        entry, run = inode.entry, inode.run
        sizes = struct.pack(f"<{len(run.sizes)}I", *run.sizes)
        if max(run.start, entry.size) <= _NONE:
            body = struct.pack("<IIII", run.start, inode.fragment, inode.offset, entry.size)
            return self._inode(_FILE, entry.path, entry.mode, body + sizes)
        places = (run.start, entry.size, 0, 1, inode.fragment, inode.offset, _NONE)
        body = struct.pack("<QQQIIII", *places)
        return self._inode(_LONG_FILE, entry.path, entry.mode, body + sizes)

    def _inode(self, kind: int, path: str, mode: int, body: bytes) -> int:
        head = struct.pack("<HHHHII", kind, mode, 0, 0, MTIME, self._numbers[path])
        return self.inodes.add(head + body)


def _listing(children: Sequence[_Child]) -> bytes:
    """Return a directory's entries in groups whose inodes lie in one block of the table."""
    groups: list[list[_Child]] = []
    for child in children:
        first = groups[-1][0] if groups else None
        if (
            first is None
            or len(groups[-1]) == _GROUP
            or child.reference >> 16 != first.reference >> 16
            or not -_FAR <= child.number - first.number < _FAR
        ):
            groups.append([])
        groups[-1].append(child)
    return b"".join(_group(group) for group in groups)


def _group(children: Sequence[_Child]) -> bytes:
    first = children[0]
    head = struct.pack("<III", len(children) - 1, first.reference >> 16, first.number)
    return head + b"".join(
        struct.pack(
            "<HhHH",
            *(child.reference & 0xFFFF, child.number - first.number),
            *(child.type, len(child.name) - 1),
        )
        + child.name
        for child in children
    )
