"""Load a bundle: look at every byte of it first, then take into the store what that lacks."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from torchkiln import host, layer_records
from torchkiln.bundle_format import (
    BLOBS,
    END,
    INDEX,
    MOST,
    SUMS,
    Index,
    Part,
    document,
    parse,
    refused,
)
from torchkiln.layer import CHUNK
from torchkiln.lockfile import base_lock_path, variant_lock_path
from torchkiln.progress import Progress
from torchkiln.projects import Root, register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torchkiln.layer import Layer
    from torchkiln.pipeline import Project
    from torchkiln.store import Store

_KINDS: Final = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link"}
_KEPT: Final = ("lock", "record")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A bundle that is as it was written; `documents` are the bytes of its locks and records."""

    path: Path
    index: Index
    documents: dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a load did, in bytes; `other_locks` are files of which this Torchkiln has others."""

    index: Index
    received: int
    present: int
    other_locks: tuple[str, ...]


def load(project: Project, path: Path) -> Loaded:
    """Take the bundle at `path` into the project's store.

    Nothing is taken before all is found right, and a record only when its layer is there. A load
    that was killed goes on where it was.
    """
    bundle = check(path)
    store = project.store
    blobs = [one for one in bundle.index.parts if one.role in BLOBS]
    missing = [one for one in blobs if not store.has(one.sha256, one.size)]
    received = sum(one.size for one in missing)
    hint = "name a place with more space: export TORCHKILN_HOME=/path"
    host.demand(list(host.space_faults(host.Space(path=store.root, size=received, hint=hint))))
    store.sweep()
    _register(project, bundle)
    with Progress("load", received) as progress:
        _adopt(store, bundle, missing, progress.advance)
    for one in bundle.index.parts:
        if one.role == "record":
            key = one.path.rpartition("/")[2]
            layer_records.write(store, key, _layer(bundle.documents[one.path]))
    return Loaded(
        index=bundle.index,
        received=received,
        present=sum(one.size for one in blobs) - received,
        other_locks=tuple(_other_locks(project, bundle)),
    )


def check(path: Path) -> Checked:
    """Return what the bundle at `path` holds; anything that was not written so is refused.

    `ArchiveError` names the first file that differs.
    """
    title = str(path)
    try:
        length = path.stat().st_size
        with path.open("rb") as stream, Progress("checking", length) as progress:
            return _Check(stream, path, progress.advance).run(length)
    except OSError as error:
        raise refused(title, error.strerror or str(error)) from error


def _register(project: Project, bundle: Checked) -> None:
    """Note that the project uses what the bundle holds, by the bundle's own locks."""
    parts = bundle.index.parts
    for name in bundle.index.variants:
        root = Root(
            project=project.root,
            variant=name,
            lock=next((one.sha256 for one in parts if one.path == f"locks/{name}.json"), ""),
            inputs=frozenset(one.sha256 for one in parts if one.role in {"wheel", "deb"}),
            layers=frozenset(one.path.rpartition("/")[2] for one in parts if one.role == "record"),
        )
        register(project.store, root)


class _Check:
    """One reading of a bundle from its start to its end."""

    def __init__(self, stream: IO[bytes], path: Path, advance: Callable[[int], object]) -> None:
        self._stream = stream
        self._path = path
        self._title = str(path)
        self._advance = advance

    def run(self, length: int) -> Checked:
        index = self._index()
        _, sums, *parts = index.all_parts
        self._part(sums)
        documents = {one.path: self._part(one) for one in parts}
        if self._stream.read(len(END) + 1) != END:
            raise refused(self._title, "there is more behind its last file, or its end is missing")
        if length != index.length:
            raise refused(self._title, f"it has {length} bytes, and should have {index.length}")
        self._check_records(index, documents)
        return Checked(path=self._path, index=index, documents=documents)

    def _index(self) -> Index:
        """Return what the first file says, which must be written as we would write it."""
        head = self._stream.read(tarfile.BLOCKSIZE)
        found = _found(head)
        if found is None or found.name != INDEX or not 0 < found.size <= MOST:
            raise refused(self._title, f"it does not begin with {INDEX}")
        data = self._stream.read(found.size)
        index = parse(data, self._title)
        first = document(INDEX, data)
        if head != first.header or self._stream.read(len(first.padding)) != first.padding:
            raise refused(self._title, f"the header of {INDEX} is not as it was written")
        return index

    def _part(self, one: Part) -> bytes:
        """Read one file and see that it is right; return its bytes if they are `_KEPT`."""
        head = self._stream.read(len(one.header))
        if head != one.header:
            raise refused(self._title, f"{one.name} should come, and there is {_shown(head)}")
        sha256, kept = hashlib.sha256(), []
        for data in _chunks(self._stream, one.size):
            sha256.update(data)
            self._advance(len(data))
            kept += [data] if one.role in _KEPT else []
        if sha256.hexdigest() != one.sha256:
            what = f"{INDEX} and {SUMS}" if one.path == SUMS else f"{one.role} {one.name}"
            raise refused(self._title, f"{what}: the sha256 does not fit")
        if self._stream.read(len(one.padding)) != one.padding:
            raise refused(self._title, f"there is something behind {one.name}")
        return b"".join(kept)

    def _check_records(self, index: Index, documents: dict[str, bytes]) -> None:
        """See that each record is that of a layer in the bundle."""
        layers = {(one.sha256, one.size) for one in index.parts if one.role == "layer"}
        for one in index.parts:
            if one.role != "record":
                continue
            try:
                layer = _layer(documents[one.path])
            except ValueError as error:
                raise refused(self._title, f"{one.name}: {error}") from None
            if (layer.digest, layer.size) not in layers:
                raise refused(self._title, f"a record is not that of a layer in it: {one.name}")


def _adopt(
    store: Store, bundle: Checked, missing: list[Part], advance: Callable[[int], object]
) -> None:
    """Move blobs into the store, hashed again: the file may have changed since it was looked at."""
    places = dict(_places(bundle.index))
    with bundle.path.open("rb") as stream:
        for one in missing:
            stream.seek(places[one.path])
            sha256 = hashlib.sha256()
            with store.workspace() as folder:
                with (folder / "blob").open("wb") as target:
                    for data in _chunks(stream, one.size):
                        sha256.update(data)
                        target.write(data)
                        advance(len(data))
                if sha256.hexdigest() != one.sha256:
                    raise refused(str(bundle.path), f"{one.name} changed while it was loaded")
                store.adopt(folder / "blob", one.sha256)


def _places(index: Index) -> Iterator[tuple[str, int]]:
    """Give the path of each file and where its bytes begin."""
    place = 0
    for one in index.all_parts:
        yield one.path, place + len(one.header)
        place += one.length


def _other_locks(project: Project, bundle: Checked) -> Iterator[str]:
    """Give the locks that this Torchkiln has otherwise: it would not build from the bundle's."""
    root, base = project.root, project.catalog.base
    own = {f"locks/{name}.json": variant_lock_path(root, name) for name in bundle.index.variants}
    base_path = base_lock_path(root, base.release)
    for path, place in {**own, f"locks/{base_path.name}": base_path}.items():
        if not place.exists() or place.read_bytes() != bundle.documents.get(path):
            yield str(place.relative_to(root))


def _chunks(stream: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (data := stream.read(min(CHUNK, size))):
        size -= len(data)
        yield data


def _found(head: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(head, "utf-8", "replace")
    except tarfile.HeaderError:
        return None


def _shown(head: bytes) -> str:
    """Return what a header says, for people."""
    found = _found(head[: tarfile.BLOCKSIZE])
    if found is None:
        return "no file" if head else "the end"
    kind = _KINDS.get(found.type, "a file" if found.isreg() else "something else")
    return f"{kind} `{found.name}` of {found.size} bytes"


def _layer(data: bytes) -> Layer:
    """Return the layer of a record in the bundle, or raise `ValueError`."""
    return layer_records.parse(json.loads(data))
