"""A .deb: an ar archive of two tars (deb(5)). Here only its files are taken out.

python-debian's reader of ar is not used: it believes a negative size, and then never ends.
"""

from __future__ import annotations

import io
import lzma
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from torchkiln.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

# A merged-/usr system has links at these places; a package that ships /bin/x ships /usr/bin/x.
_MERGED: Final = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32"})
_MAGIC: Final = b"!<arch>\n"
_HEADER: Final = 60  # bytes: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2 (ar(5))
_MAX_FILES: Final = 512 << 20  # bytes of one package's files; the largest of a base has 30 MB
_BROKEN: Final = (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error)


def merge_usr(name: str) -> str:
    """Return where a package's path lies on a merged-/usr system (as the release installs it)."""
    top, slash, rest = name.partition("/")
    return f"usr/{top}{slash}{rest}" if top in _MERGED else name


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package taken apart: `head` is all before its files, `files` the tar with them."""

    head: bytes
    files: bytes

    def plain(self) -> bytes:
        """Return the package with its files uncompressed (deb(5): `data.tar`)."""
        pad = b"\n" * (len(self.files) % 2)
        header = f"{'data.tar':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(self.files):<10}`\n"
        return b"".join((self.head, header.encode(), self.files, pad))


def read_package(path: Path, label: str) -> Package:
    """Return the package at `path`; `label` names it in errors.

    Decompressing takes most of the time of unpacking, and threads can share it.
    """
    try:
        with path.open("rb") as stream:
            return _package(stream)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno:  # the disk is at fault, not the archive
            raise
        what = f"this is no Debian package that can be read: {label}"
        raise ArchiveError(what, str(error)) from error


def _package(stream: BinaryIO) -> Package:
    """Return the package in `stream`; what is wrong with the ar raises `ValueError`."""
    members = _members(stream)
    found = [name for name in members if name in {"data.tar", "data.tar.gz", "data.tar.xz"}]
    if len(found) != 1:
        message = f"it holds: {', '.join(members)}"
        raise ValueError(message)
    start, size = members[found[0]]
    stream.seek(0)
    head = stream.read(start - _HEADER)
    stream.seek(start)
    return Package(head=head, files=_decompressed(found[0], stream.read(size)))


def _decompressed(name: str, packed: bytes) -> bytes:
    if name == "data.tar":
        return packed
    # A checksum ends either format, so a stream that did not reach its end was not checked.
    reader = lzma.LZMADecompressor() if name.endswith(".xz") else zlib.decompressobj(31)
    data = reader.decompress(packed, _MAX_FILES)
    if not reader.eof:
        message = f"its files end early, or are more than {_MAX_FILES} bytes"
        raise ValueError(message)
    return data


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
