"""Read one layer of an image from its tar, once: its members, and the digests of its bytes."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from typing import IO, TYPE_CHECKING, Final, cast

from isal import igzip

from torchkiln.errors import ArchiveError
from torchkiln.layer import CHUNK
from torchkiln.listing import DIRECTORY, FILE, HARD_LINK, SYMLINK, LayerListing, Member

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_KINDS: Final = {
    tarfile.REGTYPE: FILE,
    tarfile.AREGTYPE: FILE,
    tarfile.DIRTYPE: DIRECTORY,
    tarfile.SYMTYPE: SYMLINK,
    tarfile.LNKTYPE: HARD_LINK,
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "named pipe",
}
# The few files whose text some rule reads; of bytecode only its header (PEP 552).
_READ: Final = re.compile(
    r"""etc/(passwd|machine-id|ld\.so\.conf(\.d/[^/]+)?|dpkg/dpkg\.cfg\.d/[^/]+)
    |var/lib/dpkg/(status|info/[^/]+\.(list|md5sums))
    |usr/lib/os-release
    |usr/share/doc/[^/]+/copyright
    |opt/torchkiln/.+
    |opt/venv/pyvenv\.cfg
    |.+\.dist-info/(METADATA|RECORD)
    |.+/torch/version\.py""",
    re.VERBOSE,
)
_PYC_HEADER: Final = 16
_SCRIPT: Final = 1 << 16  # bytes; rules read smaller ones, as any may be the entry point
_BUFFER: Final = 1 << 16  # tarfile copies what is left of it for each member it reads
_HEADER: Final = 10  # bytes of gzip's header
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


def read_layer(stream: IO[bytes], name: Callable[[str], str]) -> LayerListing:
    """Return what the layer in `stream` holds; the tar is plain or compressed with gzip.

    `name` gives the layer's name for its digest (hex). Faults of the tar are tarfile's and isal's
    own errors; another compression raises `ArchiveError`.
    """
    blob = _Hashing(stream)
    buffered = io.BufferedReader(blob, CHUNK)
    head = buffered.peek(_HEADER)[:_HEADER]
    if head.startswith(_ZSTD):
        what = "a layer is compressed with zstd, which cannot be read yet"
        export = "--output type=docker,compression=gzip,force-compression=true"
        raise ArchiveError(what, hint=f"docker buildx build {export} FOLDER")
    if head.startswith(_GZIP):
        unpacked = igzip.open(buffered)  # type: ignore[no-untyped-call]
    else:
        unpacked, head = buffered, b""
    tar = _Hashing(unpacked)
    with tarfile.open(fileobj=cast("IO[bytes]", tar), mode="r|", bufsize=_BUFFER) as archive:
        members = tuple(_member(archive, info) for info in archive)
    # Readers stop at the last member, the padding behind it counts too.
    tar.drain()
    while buffered.read(CHUNK):
        pass
    return LayerListing(
        name=name(blob.sha256.hexdigest()),
        members=members,
        digest=blob.sha256.hexdigest(),
        diff_id=tar.sha256.hexdigest(),
        size=blob.size,
        gzip_header=head,
        unpacked=tar.size,
    )


def layer_members(path: Path, name: str) -> tuple[Member, ...]:
    """Return the members of the layer in the file at `path`."""
    with path.open("rb", buffering=0) as stream:
        return read_layer(cast("IO[bytes]", stream), lambda _: name).members


def _member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    path = info.name.removeprefix("./").strip("/")
    sha256, data = _contents(archive, info, path)
    # tarfile swallows GNU's long names; the header that it skipped for them shows in the offsets.
    long = info.offset_data - info.offset > tarfile.BLOCKSIZE and not info.pax_headers
    return Member(
        path="" if path == "." else path,
        kind=_KINDS.get(info.type, f"type {info.type!r}"),
        mode=info.mode,
        uid=info.uid,
        gid=info.gid,
        owner=info.uname,
        group=info.gname,
        mtime=info.mtime,
        size=info.size,
        target=info.linkname,
        sha256=sha256,
        data=data,
        extensions=(*sorted(info.pax_headers), *(["GNU"] if long or info.issparse() else [])),
    )


def _contents(
    archive: tarfile.TarFile, info: tarfile.TarInfo, path: str
) -> tuple[str, bytes | None]:
    """Return a file's sha256, and its bytes if a rule reads them."""
    stream = archive.extractfile(info) if info.isreg() else None
    if stream is None:
        return "", None
    keep = _PYC_HEADER if path.endswith(".pyc") else info.size if _READ.fullmatch(path) else 0
    sha256 = hashlib.sha256()
    data = b""
    while chunk := stream.read(CHUNK):
        if not data and chunk.startswith(b"#!") and info.mode & 0o111 and info.size <= _SCRIPT:
            keep = info.size
        sha256.update(chunk)
        if len(data) < keep:
            data = (data + chunk)[:keep]
    return sha256.hexdigest(), data if keep else None


class _Hashing(io.RawIOBase):
    """A stream of which all that is read is hashed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size: int = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self.sha256.update(buffer[:size])
        self.size += size
        return size

    def drain(self) -> None:
        """Read to the end: readers stop at the last member, the padding behind it counts too."""
        while self.read(CHUNK):
            pass
