"""The file system of an image as one stream of entries, straight from its layers."""

from __future__ import annotations

import tarfile
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from torchkiln.archive import name_fault, open_gzip
from torchkiln.errors import ArchiveError
from torchkiln.layer import CHUNK, Entry, complete

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torchkiln.layer import Layer
    from torchkiln.store import Store


def filesystem(store: Store, layers: Sequence[Layer], added: Iterable[Entry]) -> Iterator[Entry]:
    """Give each path of the image once, parents first; `added` stands in place of what it has.

    A file's bytes must be read before the next entry is asked for. Each layer's hash is checked
    before it is read. Layers agree where they meet (`torchkiln.layer.complete`), so that the first
    of two is as good as the second; where one has a folder and another has none, and where a path
    leads through a link, `ArchiveError` is raised.
    """
    folders = {"": True}
    for entry in chain(complete(added), *(_members(store, layer) for layer in layers)):
        known = folders.get(entry.path)
        if known is None:
            _check(entry, folders)
            folders[entry.path] = entry.is_directory
            yield entry
        elif known != entry.is_directory:
            what = f"a layer has a folder where another has none: /{entry.path}"
            raise ArchiveError(what, f"one of them is `{entry.owner}`")


def _check(entry: Entry, folders: dict[str, bool]) -> None:
    fault = name_fault(entry.path)
    if not fault and not folders.get(entry.path.rpartition("/")[0]):
        fault = "what it is in is no folder"
    if fault:
        what = f"refused `{entry.path}` in layer: {entry.owner}"
        raise ArchiveError(what, fault)


def _members(store: Store, layer: Layer) -> Iterator[Entry]:
    """Give what a layer holds."""
    with (
        open_gzip(store.checked(layer.digest, layer.name)) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        for member in archive:
            yield _entry(archive, member, layer.name)


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo, owner: str) -> Entry:
    if member.isdir():
        return Entry.directory(member.name, member.mode, owner)
    if member.issym():
        return Entry.link(member.name, member.linkname, owner)
    if not member.isfile():
        what = f"refused `{member.name}` in layer: {owner}"
        raise ArchiveError(what, "neither file, folder nor link")
    chunks = partial(_chunks, archive, member)
    return Entry(path=member.name, mode=member.mode, size=member.size, chunks=chunks, owner=owner)


def _chunks(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream = archive.extractfile(member)
    assert stream is not None  # noqa: S101 - a regular file has contents
    while data := stream.read(CHUNK):
        yield data
