"""A .deb: an ar archive of two tars (deb(5)). Here only their contents are taken out."""

from __future__ import annotations

import gzip
import lzma
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

from debian.arfile import ArError, ArFile

from torchkiln.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.unpack import Unpacker

# A merged-/usr system has links at these places; a package that ships /bin/x ships /usr/bin/x.
_MERGED: Final = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32"})


def merge_usr(name: str) -> str:
    """Return where a package's path lies on a merged-/usr system (as the release installs it)."""
    top, slash, rest = name.partition("/")
    return f"usr/{top}{slash}{rest}" if top in _MERGED else name


def unpack_deb(path: Path, label: str, unpacker: Unpacker) -> None:
    """Unpack the files of the package at `path`; `label` names it in errors."""
    with path.open("rb") as stream:
        unpacker.unpack(_member(stream, label), label)


def _member(stream: BinaryIO, label: str) -> IO[bytes]:
    try:
        names = {member.name: member for member in ArFile(fileobj=stream).getmembers()}
    except ArError as error:
        what = f"this is no Debian package: {label}"
        raise ArchiveError(what, str(error)) from error
    for name, opener in (("xz", lzma.open), ("gz", gzip.open)):
        if member := names.get(f"data.tar.{name}"):
            return cast("IO[bytes]", opener(cast("IO[bytes]", member)))
    if member := names.get("data.tar"):
        return cast("IO[bytes]", member)
    what = f"this Debian package has no files that can be read: {label}"
    raise ArchiveError(what, f"it holds: {', '.join(sorted(names))}")
