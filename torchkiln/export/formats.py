"""The formats that an image can be exported in, and the one way to write each of them."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from torchkiln.errors import ExportError, did_you_mean
from torchkiln.export.cluster_files import cluster_files
from torchkiln.export.destination import check_place, check_room, unfinished
from torchkiln.export.filesystem import filesystem
from torchkiln.export.rootfs import write_rootfs
from torchkiln.export.sif import write_sif
from torchkiln.export.squashfs import write_squashfs
from torchkiln.image_archive import DOCKER_DOCUMENTS, archive, archive_size
from torchkiln.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchkiln.image import Image
    from torchkiln.layer import Entry
    from torchkiln.store import Store

STDOUT: Final = "-"


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image to export and its store; `advance` is told of the bytes that are read."""

    store: Store
    image: Image
    advance: Callable[[int], object] = lambda _: None

    @property
    def config(self) -> bytes:
        """Return the image's OCI config."""
        return self.store.checked(self.image.config, "the image's config").read_bytes()

    def entries(self) -> Iterator[Entry]:
        """Give the image's file system, with the files that clusters' runtimes look for."""
        name = f"{self.image.reference}@sha256:{self.image.digest}"
        added = cluster_files(json.loads(self.config), name)
        return filesystem(self.store, self.image.layers, added)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format: a file is written by `to_stream`, which `seeks` or does not; a folder by the other.

    `room` gives the bytes that it takes on a disk, `reads` those that are read to make it. What a
    file system packs to is known only when it is packed; it comes to 99% (`cpu`) of what the layers
    take, which are packed alike.
    """

    room: Callable[[Image], int]
    reads: Callable[[Image], int]
    seeks: bool = False
    to_stream: Callable[[Source, IO[bytes]], None] | None = None
    to_folder: Callable[[Source, Path], None] | None = None


def _archive_size(image: Image) -> int:
    return archive_size(image.layout)


def _packed(image: Image) -> int:
    return image.size * 21 // 20


def _unpacked(image: Image) -> int:
    return image.unpacked


def _files_on_disk(image: Image) -> int:
    return image.unpacked * 11 // 10  # file systems round each file up


def _oci_archive(source: Source, stream: IO[bytes]) -> None:
    for chunk in archive(source.image.layout):
        stream.write(chunk)
        source.advance(len(chunk))


def _docker_archive(source: Source, stream: IO[bytes]) -> None:
    """Write what `docker save` wrote before it knew OCI; nothing in it is the OCI manifest's."""
    image = source.image
    for chunk in archive(image.layout, documents=DOCKER_DOCUMENTS, without={image.digest}):
        stream.write(chunk)
        source.advance(len(chunk))


def _squashfs(source: Source, stream: IO[bytes]) -> None:
    write_squashfs(stream, source.entries(), source.advance)


def _sif(source: Source, stream: IO[bytes]) -> None:
    write_sif(
        stream,
        digest=source.image.digest,
        architecture=json.loads(source.config)["architecture"],
        config=source.config,
        write_partition=lambda partition: _squashfs(source, partition),
    )
    mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
    os.fchmod(stream.fileno(), mode | (mode & 0o444) >> 2)  # `./image.sif` runs it


def _rootfs(source: Source, folder: Path) -> None:
    write_rootfs(folder, source.entries(), source.advance)


FORMATS: Final = {
    "oci-archive": Format(room=_archive_size, reads=_archive_size, to_stream=_oci_archive),
    "docker-archive": Format(room=_archive_size, reads=_archive_size, to_stream=_docker_archive),
    "squashfs": Format(room=_packed, reads=_unpacked, seeks=True, to_stream=_squashfs),
    "sif": Format(room=_packed, reads=_unpacked, seeks=True, to_stream=_sif),
    "rootfs": Format(room=_files_on_disk, reads=_unpacked, to_folder=_rootfs),
}


def find_format(name: str, output: str) -> Format:
    """Return the format of this name, if it can go to `output`; otherwise raise `ExportError`."""
    if name not in FORMATS:
        what = f"there is no format `{name}`{did_you_mean(name, FORMATS)}"
        raise ExportError(what, f"there are: {', '.join(FORMATS)}")
    found = FORMATS[name]
    if output != STDOUT:
        check_place(Path(output).absolute(), folder=found.to_folder is not None)
    elif found.seeks or found.to_folder:
        streams = ", ".join(n for n, one in FORMATS.items() if one.to_stream and not one.seeks)
        what = f"`{name}` cannot be written to stdout"
        raise ExportError(what, f"these can: {streams}", f"--format {name} --output PATH")
    return found


def export(source: Source, name: str, output: str) -> None:
    """Write the image of `source` in the format `name` to the path `output`, `-` for stdout.

    The path holds the whole or, where something fails, what it held before.
    """
    wanted = find_format(name, output)
    target = Path(output).absolute()
    if output != STDOUT:
        check_room(target, wanted.room(source.image))
    with Progress(name, wanted.reads(source.image)) as progress:
        source = replace(source, advance=progress.advance)
        if wanted.to_folder:
            with unfinished(target) as folder:
                folder.mkdir()
                wanted.to_folder(source, folder)
        elif wanted.to_stream and output == STDOUT:
            wanted.to_stream(source, sys.stdout.buffer)
        elif wanted.to_stream:
            with unfinished(target) as path, path.open("xb") as stream:
                wanted.to_stream(source, stream)
