"""Unpacked images: each layer once in the store, an image as hard links into its layers.

Only ever shown to a sandbox read-only, because a write through a hard link would change the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO, TYPE_CHECKING

from torchkiln.archive import open_gzip
from torchkiln.errors import ArchiveError
from torchkiln.lockfile import digest
from torchkiln.unpack import Unpacker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torchkiln.layer import Layer
    from torchkiln.store import Store


def layer_tree(store: Store, layer: Layer) -> Path:
    """Return the folder that holds the unpacked layer; its tar is checked against `diff_id`."""
    target = store.root / "trees" / layer.diff_id

    def fill(folder: Path) -> None:
        with open_gzip(store.blob(layer.digest)) as stream:
            reader = _HashingReader(stream)
            Unpacker(folder).unpack(io.BufferedReader(reader, 1 << 20), layer.name)
            reader.drain()
        if reader.sha256.hexdigest() != layer.diff_id:
            what = f"the layer in the store is not what it was: {layer.name}"
            raise ArchiveError(what, hint=f"rm {store.blob(layer.digest)}, then build again")

    return _once(store, target, fill)


def image_tree(store: Store, layers: Sequence[Layer]) -> Path:
    """Return the folder that holds the unpacked image."""
    key = digest([layer.diff_id for layer in layers])
    target = store.root / "trees" / f"image-{key}"
    if target.is_dir():
        return target
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(partial(layer_tree, store), layers))

    def fill(folder: Path) -> None:
        for part in parts:
            _add(str(part), str(folder))

    return _once(store, target, fill)


def _once(store: Store, target: Path, fill: Callable[[Path], None]) -> Path:
    """Fill the folder `target` unless it is there; it appears whole or not at all."""
    with store.exclusive(f"tree-{target.name}"):
        if not target.is_dir():
            with store.workspace() as workspace:
                folder = workspace / "tree"
                folder.mkdir(mode=0o755)
                fill(folder)
                folder.chmod(0o755)
                target.parent.mkdir(exist_ok=True)
                folder.rename(target)
    return target


def _add(part: str, folder: str) -> None:
    """Add a layer to a tree. Layers only add: directories meet, files are equal where they do."""
    there = {entry.name: entry for entry in _entries(folder)}
    for entry in _entries(part):
        target = f"{folder}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in there:
                os.mkdir(target)  # noqa: PTH102 - strings: see torchkiln.unpack
                os.chmod(target, entry.stat().st_mode)  # noqa: PTH101
            elif not there[entry.name].is_dir(follow_symlinks=False):
                what = f"a layer has a folder where another has a file or a link: {target}"
                raise ArchiveError(what)
            _add(entry.path, target)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(entry.path, target, follow_symlinks=False)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


class _HashingReader(io.RawIOBase):
    """Hashes what is read through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.sha256.update(data)
        return len(data)

    def drain(self) -> None:
        """Read to the end: a tar's reader stops before the padding, which is part of the hash."""
        while self.read(1 << 20):
            pass
