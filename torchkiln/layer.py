"""A layer: a tar whose bytes depend on nothing but what is in it, compressed while it is written.

Rules from the OCI image spec (layer.md) and from what consumers choke on:
- parents first, then sorted by path, each path once, every parent directory written out;
- uid, gid 0, no names, one constant mtime, modes 0644, 0755 and 1777;
- ustar headers, PAX records only where ustar cannot say it, never GNU's;
- no whiteouts, no hard links, no devices.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import isal
from isal import isal_zlib

from torchkiln.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MTIME: Final = 315532800
"""1980-01-01T00:00:00Z. Not 0: zip cannot say earlier years, and some programs refuse time 0."""

CHUNK: Final = 1 << 20
_RECORD: Final = tarfile.RECORDSIZE  # tar files end on a multiple of 10240 bytes
# ISA-L picks its code by processor. Level 1 gives the same bytes with SSE4.2, AVX2 and AVX-512 code
# (measured with `qemu-x86_64 -cpu`), level 3 does not.
_LEVEL: Final = 1
CODEC: Final = f"gzip/isal-{isal.__version__}-{_LEVEL}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A path of a layer, relative and without trailing slash.

    A file has `size` (bytes) and `chunks`, a function that gives its bytes; a symbolic link has
    `target`; a directory has neither. `sha256` (hex) is that of a file's bytes, so that two owners
    of one path can be compared; `owner` names who brings it, for messages.
    """

    path: str
    mode: int = 0o644
    size: int = 0
    chunks: Callable[[], Iterable[bytes]] | None = None
    target: str | None = None
    sha256: str = ""
    owner: str = ""

    @classmethod
    def directory(cls, path: str, mode: int = 0o755, owner: str = "") -> Entry:
        """Return a directory."""
        return cls(path=path, mode=mode, owner=owner)

    @classmethod
    def text(cls, path: str, data: bytes, *, mode: int = 0o644, owner: str = "") -> Entry:
        """Return a file that holds `data`."""
        sha256 = hashlib.sha256(data).hexdigest()
        return cls(
            path=path,
            mode=mode,
            size=len(data),
            chunks=lambda: (data,),
            sha256=sha256,
            owner=owner,
        )

    @classmethod
    def link(cls, path: str, target: str, owner: str = "") -> Entry:
        """Return a symbolic link."""
        return cls(path=path, mode=0o777, target=target, owner=owner)

    @property
    def is_directory(self) -> bool:
        """Tell whether this is a directory."""
        return self.chunks is None and self.target is None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What a layer turned out to be.

    `diff_id` is the sha256 (hex) of the tar and the identity that is promised; `digest` and `size`
    are those of the compressed blob and depend on `codec` too. `unpacked` is the tar's size.
    """

    name: str
    diff_id: str
    digest: str
    size: int
    unpacked: int
    codec: str = CODEC


def complete(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries sorted, with every parent directory, each path once.

    Owners that bring the same bytes to one path agree (each `nvidia-*` wheel ships the same empty
    `nvidia/__init__.py`); owners that bring different ones raise `ArchiveError`.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        known = found.setdefault(entry.path, entry)
        if known is not entry and not _same(known, entry):
            raise _conflict(entry.path, known, entry)
    # Afterwards, so that a directory with a mode of its own may come after what is in it.
    for entry in tuple(found.values()):
        for parent in _parents(entry.path):
            known = found.setdefault(parent, Entry.directory(parent, owner=entry.owner))
            if not known.is_directory:
                raise _conflict(parent, known, entry)
    return [found[path] for path in sorted(found, key=str.encode)]


def write_layer(
    path: Path,
    name: str,
    entries: Iterable[Entry],
    advance: Callable[[int], object] = lambda _: None,
) -> Layer:
    """Write the layer `name` to `path`, compressed; return what it is.

    `advance` is told of each file's size when the file is written.
    """
    with path.open("wb") as stream:
        writer = _Writer(stream.write)
        for entry in complete(entries):
            writer.add(entry)
            advance(entry.size)
        writer.finish()
    return Layer(
        name=name,
        diff_id=writer.tar_hash.hexdigest(),
        digest=writer.blob_hash.hexdigest(),
        size=writer.blob_size,
        unpacked=writer.tar_size,
    )


class _Writer:
    """Tar in, gzip out, both hashed on the way."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._buffer = bytearray()
        self._gzip = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, 31)
        self.tar_hash = hashlib.sha256()
        self.blob_hash = hashlib.sha256()
        self.tar_size = 0
        self.blob_size = 0

    def add(self, entry: Entry) -> None:
        self._feed(_header(entry))
        written = 0
        for chunk in entry.chunks() if entry.chunks else ():
            written += len(chunk)
            self._feed(chunk)
        if written != entry.size:
            what = f"/{entry.path} of {entry.owner} has another size than it says"
            raise ArchiveError(what, f"it says {entry.size} bytes, it holds {written}")
        self._feed(bytes(-written % tarfile.BLOCKSIZE))

    def finish(self) -> None:
        self._feed(bytes(2 * tarfile.BLOCKSIZE))
        self._feed(bytes(-(self.tar_size + len(self._buffer)) % _RECORD))
        self._flush(len(self._buffer))
        self._emit(self._gzip.flush())

    def _feed(self, data: bytes) -> None:
        # The compressor gets pieces of one fixed size: its output may depend on how it is fed.
        self._buffer += data
        if len(self._buffer) >= CHUNK:
            self._flush(len(self._buffer) // CHUNK * CHUNK)

    def _flush(self, count: int) -> None:
        with memoryview(self._buffer) as view:
            for start in range(0, count, CHUNK):
                piece = view[start : min(start + CHUNK, count)]
                self.tar_hash.update(piece)
                self._emit(self._gzip.compress(piece))
                piece.release()
        self.tar_size += count
        del self._buffer[:count]

    def _emit(self, data: bytes) -> None:
        self.blob_hash.update(data)
        self.blob_size += len(data)
        self._write(data)


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.mtime = MTIME
    info.mode = entry.mode
    info.size = entry.size
    if entry.target is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.target
    elif entry.is_directory:
        info.type = tarfile.DIRTYPE
    return info.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8")


def _same(one: Entry, other: Entry) -> bool:
    if any(entry.chunks and not entry.sha256 for entry in (one, other)):
        return False  # contents that nobody knows are the same as no others
    first, second = (
        (entry.is_directory, entry.target, entry.sha256, entry.mode) for entry in (one, other)
    )
    return first == second


def _conflict(path: str, one: Entry, other: Entry) -> ArchiveError:
    what = f"two packages claim one path with different contents: /{path}"
    return ArchiveError(what, f"`{one.owner}` and `{other.owner}`")


def _parents(path: str) -> Iterator[str]:
    for parent in reversed(PurePosixPath(path).parents[:-1]):
        yield str(parent)
