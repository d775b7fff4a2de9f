"""What an image is made of, read from the tars of its OCI layout, each of them once.

An unpacked tree has lost owners, times and header formats, so rules about these need the tars. In
the same pass every digest is recomputed and every file hashed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Final, cast

from isal import igzip
from isal.igzip_lib import IsalError

from torchkiln.errors import ArchiveError
from torchkiln.layer import CHUNK

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE: Final = "file"
DIRECTORY: Final = "directory"
SYMLINK: Final = "symbolic link"
HARD_LINK: Final = "hard link"
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
    |var/lib/dpkg/(status|info/[^/]+\.list)
    |opt/torchkiln/.+
    |opt/venv/pyvenv\.cfg
    |.+\.dist-info/(METADATA|RECORD)
    |.+/torch/version\.py""",
    re.VERBOSE,
)
_PYC_HEADER: Final = 16
_BUFFER: Final = 1 << 16  # tarfile copies what is left of it for each member it reads


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member of a layer's tar, its path without leading and trailing slash (the root is "").

    `data` holds the bytes of a file that a rule reads (the header alone of bytecode), else it is
    None. `extensions` names what the header needs beyond ustar: PAX keywords, "GNU".
    """

    path: str
    kind: str = FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    owner: str = ""
    group: str = ""
    mtime: float = 0
    size: int = 0
    target: str = ""
    sha256: str = ""
    data: bytes | None = None
    extensions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def text(self) -> str:
        """Return the text of a file that rules read."""
        return (self.data or b"").decode(errors="replace")


@dataclass(frozen=True, kw_only=True)
class LayerListing:
    """A layer as it is: its members in the tar's order, and the digests (hex) of its bytes."""

    name: str
    members: tuple[Member, ...]
    digest: str
    diff_id: str
    size: int
    gzip_header: bytes


@dataclass(frozen=True, kw_only=True)
class ImageListing:
    """An image: the documents of its layout and what its layers hold."""

    index: dict[str, Any]
    manifest: dict[str, Any]
    config: dict[str, Any]
    layers: tuple[LayerListing, ...]

    @cached_property
    def members(self) -> dict[str, Member]:
        """Return what a container sees, by path: a later layer's member hides an earlier one's."""
        return {member.path: member for layer in self.layers for member in layer.members}

    @property
    def runtime(self) -> dict[str, Any]:
        """Return the configuration of the image's processes."""
        return cast("dict[str, Any]", self.config.get("config", {}))

    @cached_property
    def environment(self) -> dict[str, str]:
        """Return the environment of the image's processes."""
        pairs = (entry.partition("=") for entry in self.runtime.get("Env", []))
        return {name: value for name, _, value in pairs}

    def file(self, path: str) -> Member | None:
        """Return what `path` (without leading slash) leads to, through all symbolic links."""
        for _ in range(40):  # as many links as Linux follows
            steps = [*reversed(PurePosixPath(path).parents[:-1]), path]
            found = (self.members.get(str(step)) for step in steps)
            link = next((one for one in found if one and one.kind == SYMLINK), None)
            if link is None:
                return self.members.get(path)
            target = posixpath.join("/", posixpath.dirname(link.path), link.target)
            path = posixpath.normpath(target + path[len(link.path) :]).lstrip("/")
        return None


def read_layout(layout: Path) -> ImageListing:
    """Return what the one image of an OCI layout directory holds.

    Raises `ArchiveError` for a layout that cannot be read; digests are compared by rules, not here.
    """
    try:
        index = json.loads((layout / "index.json").read_bytes())
        manifest = _document(layout, index["manifests"][0])
        config = _document(layout, manifest["config"])
        layers = _layers(layout, manifest["layers"])
    except (tarfile.TarError, IsalError, EOFError) as error:  # type: ignore[misc] # an instance in isal's stub
        what = f"a layer of this image is broken: {layout}"
        raise ArchiveError(what, str(error)) from error
    except (OSError, ValueError, KeyError) as error:
        what = f"this is no OCI layout of an image: {layout}"
        raise ArchiveError(what, repr(error)) from error
    return ImageListing(index=index, manifest=manifest, config=config, layers=layers)


def _layers(layout: Path, descriptors: Sequence[dict[str, Any]]) -> tuple[LayerListing, ...]:
    """Read the layers in parallel, the largest first."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        largest_first = sorted(descriptors, key=lambda entry: -entry["size"])
        reading = {entry["digest"]: pool.submit(_layer, layout, entry) for entry in largest_first}
        return tuple(reading[entry["digest"]].result() for entry in descriptors)


def _blob(layout: Path, descriptor: dict[str, Any]) -> Path:
    algorithm, _, value = str(descriptor["digest"]).partition(":")
    return layout / "blobs" / algorithm / value


def _document(layout: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    data = _blob(layout, descriptor).read_bytes()
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != descriptor["digest"]:
        message = f"the bytes are not those of their digest: {descriptor['digest']}"
        raise ValueError(message)
    return cast("dict[str, Any]", json.loads(data))


def _layer(layout: Path, descriptor: dict[str, Any]) -> LayerListing:
    with _blob(layout, descriptor).open("rb") as stream:
        gzip_header = stream.read(10)
        stream.seek(0)
        blob = _Hashing(stream)
        with igzip.open(blob) as unzipped:  # type: ignore[no-untyped-call]
            tar = _Hashing(unzipped)
            with tarfile.open(fileobj=tar, mode="r|", bufsize=_BUFFER) as archive:
                members = tuple(_member(archive, info) for info in archive)
            tar.drain()
        blob.drain()
    name = descriptor.get("annotations", {}).get("io.torchkiln.layer", descriptor["digest"][:19])
    return LayerListing(
        name=name,
        members=members,
        digest=blob.sha256.hexdigest(),
        diff_id=tar.sha256.hexdigest(),
        size=blob.size,
        gzip_header=gzip_header,
    )


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
