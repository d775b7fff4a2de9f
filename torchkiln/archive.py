"""What every archive is checked for, and how members of a zip are read fast."""

from __future__ import annotations

import stat
import zipfile
from typing import IO, TYPE_CHECKING, Final, cast

from isal import igzip, isal_zlib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_READ: Final = 1 << 18
_OUT: Final = 1 << 20
_MAX_NAME: Final = 255  # NAME_MAX, in bytes
_MAX_PATH: Final = 3072  # PATH_MAX is 4096, and the folder that is unpacked into has a path too
LOCAL_HEADER: Final = 30
"""Bytes of a member's header before its name and extra field (APPNOTE.TXT 4.3.7)."""


def name_fault(name: str) -> str:
    """Return why `name` may not be a path inside a layer, "" if it may."""
    parts = name.split("/")
    if not name or name.startswith("/"):
        return "an absolute path"
    if "\\" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):  # noqa: PLR2004
        return "a backslash or a control character in a name"
    if any(part in {"", ".", ".."} for part in parts):
        return "a path that leaves its folder"
    if any(part.startswith(".wh.") for part in parts):
        return "a name that means deletion in a layer"
    if len(name.encode()) > _MAX_PATH or any(len(part.encode()) > _MAX_NAME for part in parts):
        return "a name longer than a file system takes"
    return ""


def member_fault(info: zipfile.ZipInfo) -> str:
    """Return why this member may not be unpacked, "" if it may."""
    # zipfile cuts `filename` at a NUL; other readers do not, and see another name.
    if fault := name_fault(info.orig_filename):
        return fault
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG}:
        return "neither a file nor a folder"
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return "compressed by a method that wheels do not use"
    return ""


def open_gzip(path: Path) -> IO[bytes]:
    """Open a gzip file for reading, with ISA-L's inflate."""
    return cast("IO[bytes]", igzip.open(path))  # type: ignore[no-untyped-call]


def inflate(path: Path, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Give a member's bytes, 1 MiB at most at a time.

    The same as `zipfile.ZipFile.open`, with ISA-L's inflate, which is 3 times as fast as zlib's;
    sizes and hashes are for the caller to compare. Raises `BadZipFile` and `IsalError`.
    """
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        header = stream.read(LOCAL_HEADER)
        if len(header) != LOCAL_HEADER or header[:4] != b"PK\3\4":
            what = f"no member starts at {info.header_offset}"
            raise zipfile.BadZipFile(what)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        stream.seek(names, 1)
        remaining = info.compress_size
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        decompressor = isal_zlib.decompressobj(-15)
        while remaining and (data := stream.read(min(_READ, remaining))):
            remaining -= len(data)
            if not deflated:
                yield data
                continue
            output = b""
            # A full output may leave more to come, even where all input is taken up.
            while (data or len(output) == _OUT) and not decompressor.eof:
                output = decompressor.decompress(data, _OUT)
                yield output
                data = decompressor.unconsumed_tail
