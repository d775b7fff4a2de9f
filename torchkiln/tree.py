"""Unpacked images: each layer once in the store, an image as hard links into its layers.

Only ever shown to a sandbox read-only, because a write through a hard link would change the store.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

from torchkiln.archive import open_gzip
from torchkiln.errors import ArchiveError
from torchkiln.lockfile import digest
from torchkiln.store import remove_tree
from torchkiln.unpack import Unpacker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    parts = [layer_tree(store, layer) for layer in layers]

    def fill(folder: Path) -> None:
        for part in parts:
            _add(part, folder)

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


def _add(part: Path, folder: Path) -> None:
    """Add a layer to a tree. Layers only add: directories meet, files are equal where they do."""
    for path, names, files in os.walk(part):
        here = folder / Path(path).relative_to(part)
        links = [name for name in names if Path(path, name).is_symlink()]
        for name in names:
            if name not in links and not (here / name).is_dir():
                (here / name).mkdir()
                (here / name).chmod(Path(path, name).stat().st_mode)
        for name in (*files, *links):
            if not os.path.lexists(here / name):
                os.link(Path(path, name), here / name, follow_symlinks=False)


def drop_tree(store: Store, layers: Sequence[Layer]) -> None:
    """Remove the unpacked image, not its layers."""
    remove_tree(store.root / "trees" / f"image-{digest([layer.diff_id for layer in layers])}")


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
