"""Unpack tar archives into a fresh folder so that nothing can land outside it.

Python's own extraction filters have been escaped several times (CVE-2025-4517, cpython#151558), so
this does less: it follows no link that an archive made, overwrites nothing, makes no devices.
"""

from __future__ import annotations

import gzip
import lzma
import os
import tarfile
import zlib
from typing import IO, TYPE_CHECKING, Final, cast

from isal.igzip_lib import IsalError

from torchkiln.archive import name_fault
from torchkiln.errors import ArchiveError
from torchkiln.files import link_or_copy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Self

_COPY: Final = 1 << 20
_PATH_MAX: Final = 4096
# tarfile lets ValueError and RecursionError out on headers that were made for it.
_BROKEN: Final[tuple[type[Exception], ...]] = (
    *(tarfile.TarError, EOFError, ValueError, RecursionError),
    *(gzip.BadGzipFile, lzma.LZMAError, zlib.error, cast("type[Exception]", IsalError)),
)
_MAX_BYTES: Final = 64 << 30
_MAX_MEMBERS: Final = 2_000_000


class _Header(tarfile.TarInfo):
    """A header that is broken in the middle of an archive is an error, and not its end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # two blocks of zeros
            raise
        except tarfile.HeaderError as error:
            message = f"broken header: {error}"
            raise tarfile.ReadError(message) from error


class Unpacker:
    """Unpacks one or more archives into `root`, which nobody else writes meanwhile.

    `rename` maps a member's name to where it goes, None to leave it out; `advance` is told of each
    file's size when it is written. Owners, times and the bits beyond rwx and sticky are dropped;
    directories are made writable for their owner.
    """

    def __init__(
        self,
        root: Path,
        rename: Callable[[str], str | None] = lambda name: name,
        advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        # Paths are strings here: an image has 40,000, and pathlib would take as long as the disk.
        self._root = f"{root}/"
        self._rename = rename
        self._advance = advance
        self._kinds: dict[str, str] = {}
        self._bytes = 0

    def unpack(self, stream: IO[bytes], label: str) -> None:
        """Unpack the tar in `stream`; `label` names it in errors."""
        try:
            with tarfile.open(
                fileobj=stream, mode="r|", encoding="utf-8", tarinfo=_Header
            ) as archive:
                for member in archive:
                    self._member(archive, member, label)
        except _BROKEN as error:
            what = f"this archive is broken: {label}"
            raise ArchiveError(what, str(error)) from error

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, label: str) -> None:
        name = member.name.removeprefix("./").rstrip("/")
        if name in {"", "."}:
            return
        if fault := name_fault(name):
            raise _refused(label, member.name, fault)
        target = self._rename(name)
        if target is None:
            return
        self._bytes += member.size
        if self._bytes > _MAX_BYTES or len(self._kinds) > _MAX_MEMBERS:
            raise _refused(label, member.name, "more than any image holds")
        self._parents(target, label)
        if member.isdir():
            self._directory(target, member.mode, label)
        elif self._kinds.get(target):
            raise _refused(label, member.name, "this path is there already")
        else:
            self._leaf(archive, member, target, label)

    def _leaf(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, target: str, label: str
    ) -> None:
        if member.issparse():
            raise _refused(label, member.name, "a sparse file, which no package needs")
        if member.isfile():
            source = archive.extractfile(member)
            assert source is not None  # noqa: S101 - a regular file has contents
            self._file(target, member, source)
        elif member.issym():
            if not 0 < len(member.linkname.encode()) < _PATH_MAX:
                raise _refused(label, member.name, "a link to a place that no file system has")
            os.symlink(member.linkname, self._root + target)  # noqa: PTH211
            self._kinds[target] = "link"
        elif member.islnk():
            self._hard_link(target, member.linkname, label)
        else:
            raise _refused(label, member.name, "a device, FIFO or worse")

    def _parents(self, target: str, label: str) -> None:
        parent = target.rpartition("/")[0]
        if parent and self._kinds.get(parent) != "directory":
            self._parents(parent, label)
            self._directory(parent, 0o755, label)

    def _directory(self, target: str, mode: int, label: str) -> None:
        kind = self._kinds.get(target)
        if kind == "directory":
            return
        if kind:
            raise _refused(label, target, f"a folder where a {kind} is")
        path = self._root + target
        os.mkdir(path)  # noqa: PTH102
        os.chmod(path, mode & 0o1777 | 0o700)  # noqa: PTH101
        self._kinds[target] = "directory"

    def _file(self, target: str, member: tarfile.TarInfo, source: IO[bytes]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        handle = os.open(self._root + target, flags, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as stream:
            while data := source.read(_COPY):
                stream.write(data)
            os.fchmod(handle, member.mode & 0o777 | 0o400)
        self._kinds[target] = "file"
        self._advance(member.size)

    def _hard_link(self, target: str, linkname: str, label: str) -> None:
        name = linkname.removeprefix("./")
        source = None if name_fault(name) else self._rename(name)
        if source is None or self._kinds.get(source) != "file":
            raise _refused(
                label, target, f"a hard link to what this archive did not unpack: {name}"
            )
        link_or_copy(self._root + source, self._root + target)
        self._kinds[target] = "file"


def _refused(label: str, member: str, why: str) -> ArchiveError:
    what = f"refused `{member}` in archive: {label}"
    return ArchiveError(what, why)
