"""A .deb: an ar archive of two tars (deb(5)). Here only their contents are taken out.

python-debian's reader of ar is not used: it believes a negative size, and then never ends.
"""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

from torchkiln.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.unpack import Unpacker

# A merged-/usr system has links at these places; a package that ships /bin/x ships /usr/bin/x.
_MERGED: Final = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32"})
_MAGIC: Final = b"!<arch>\n"
_HEADER: Final = 60  # bytes: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2 (ar(5))
_READERS: Final = {"data.tar": None, "data.tar.gz": gzip.open, "data.tar.xz": lzma.open}
_BROKEN: Final = (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error)


def merge_usr(name: str) -> str:
    """Return where a package's path lies on a merged-/usr system (as the release installs it)."""
    top, slash, rest = name.partition("/")
    return f"usr/{top}{slash}{rest}" if top in _MERGED else name


def unpack_deb(path: Path, label: str, unpacker: Unpacker) -> None:
    """Unpack the files of the package at `path`; `label` names it in errors."""
    try:
        with path.open("rb") as stream:
            unpacker.unpack(_files(stream), label)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno:  # the disk is at fault, not the archive
            raise
        what = f"this is no Debian package that can be read: {label}"
        raise ArchiveError(what, str(error)) from error


def _files(stream: BinaryIO) -> IO[bytes]:
    """Return the tar with the package's files; what is wrong with the ar raises `ValueError`."""
    members = _members(stream)
    found = [name for name in members if name in _READERS]
    if len(found) != 1:
        message = f"it holds: {', '.join(members)}"
        raise ValueError(message)
    reader = _READERS[found[0]]
    packed = cast("IO[bytes]", io.BufferedReader(_Slice(stream, *members[found[0]])))
    return cast("IO[bytes]", reader(packed)) if reader else packed


def _members(stream: BinaryIO) -> dict[str, tuple[int, int]]:
    """Return offset and size (bytes) of each member by name."""
    if stream.read(len(_MAGIC)) != _MAGIC:
        message = "it is no ar archive"
        raise ValueError(message)
    members: dict[str, tuple[int, int]] = {}
    while header := stream.read(_HEADER):
        name = header[:16].decode("ascii").rstrip(" ").removesuffix("/")
        size = header[48:58].rstrip(b" ")
        if len(header) != _HEADER or header[58:] != b"`\n" or not size.isdigit() or name in members:
            message = f"a member's header is broken, or one is there twice: {name}"
            raise ValueError(message)
        members[name] = stream.tell(), int(size)
        stream.seek(int(size) + int(size) % 2, io.SEEK_CUR)
    return members


class _Slice(io.RawIOBase):
    """A part of a file, for reading once from its start."""

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        self._stream = stream
        self._left = size
        stream.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)
