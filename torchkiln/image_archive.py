"""An image as one stream of bytes that `docker load` and `podman load` take."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from torchkiln.layer import CHUNK, MTIME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

_BLOBS: Final = "blobs/sha256"
DOCKER_DOCUMENTS: Final = ("manifest.json",)
_ALL_DOCUMENTS: Final = ("oci-layout", "index.json", *DOCKER_DOCUMENTS)


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A file of the archive; `chunks` gives its `size` bytes."""

    name: str
    size: int
    chunks: Callable[[], Iterable[bytes]]


def archive(
    layout: Path,
    *,
    reference: str | None = None,
    without: Collection[str] = (),
    documents: Sequence[str] = _ALL_DOCUMENTS,
) -> Iterator[bytes]:
    """Give the bytes of a tar of the layout. It is the same bytes each time.

    `reference` replaces the image's name; the blobs `without` (sha256, hex) are left out.
    """
    for name in ("blobs", _BLOBS):
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        yield _header(folder)
    written = 2 * tarfile.BLOCKSIZE
    # The small files come first, so that a reader knows what follows.
    for member in [*_documents(layout, documents, reference), *_blobs(layout, without)]:
        info = tarfile.TarInfo(member.name)
        info.size, info.mode = member.size, 0o644
        padding = -member.size % tarfile.BLOCKSIZE
        yield _header(info)
        yield from member.chunks()
        yield bytes(padding)
        written += tarfile.BLOCKSIZE + member.size + padding
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(written + end) % tarfile.RECORDSIZE)


def archive_size(layout: Path, without: Collection[str] = ()) -> int:
    """Return the bytes of the blobs that an archive of the layout holds."""
    return sum(member.size for member in _blobs(layout, without))


def _documents(layout: Path, names: Sequence[str], reference: str | None) -> Iterator[_Member]:
    for name in names:
        data = (layout / name).read_bytes()
        if reference is not None:
            data = _named(data, reference)
        yield _Member(name=name, size=len(data), chunks=partial(iter, (data,)))


def _named(data: bytes, reference: str) -> bytes:
    """Return a document of the layout with another name for the image."""
    body = json.loads(data)
    if isinstance(body, list):  # Docker's manifest.json
        body[0]["RepoTags"] = [reference]
    elif "manifests" in body:
        body["manifests"][0]["annotations"] = image_names(reference)
    return json.dumps(body).encode()


def image_names(reference: str) -> dict[str, str]:
    """Return the annotations that name an image in an index."""
    registry, slash, path = reference.partition("/")
    tag = (path if slash else registry).partition("@")[0].partition(":")[2]
    return {
        "org.opencontainers.image.ref.name": tag or "latest",
        # containerd, and so Docker's new store, takes the full name from here.
        "io.containerd.image.name": reference if slash else f"docker.io/library/{reference}",
    }


def _blobs(layout: Path, without: Collection[str]) -> Iterator[_Member]:
    for path in sorted((layout / _BLOBS).iterdir()):
        if path.name not in without:
            yield _Member(
                name=f"{_BLOBS}/{path.name}",
                size=path.stat().st_size,
                chunks=partial(_read, path),
            )


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while data := stream.read(CHUNK):
            yield data


def _header(info: tarfile.TarInfo) -> bytes:
    info.mtime = MTIME
    return info.tobuf(format=tarfile.PAX_FORMAT)
