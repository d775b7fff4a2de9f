"""Unpacked images: each layer once in the store, an image as hard links into its layers.

Only ever shown to a sandbox read-only, because a write through a hard link would change the store.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from torchkiln.archive import open_gzip
from torchkiln.errors import ArchiveError
from torchkiln.files import link_or_copy
from torchkiln.lockfile import digest
from torchkiln.progress import Progress, tell_copied
from torchkiln.unpack import Unpacker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torchkiln.layer import Layer
    from torchkiln.store import Store


def layer_tree(
    store: Store, layer: Layer, advance: Callable[[int], object] = lambda _: None
) -> Path:
    """Return the folder that holds the unpacked layer, whose blob is checked first.

    `advance` is told of each file's size when it is written.
    """
    target = store.trees / layer.diff_id

    def fill(folder: Path) -> None:
        with open_gzip(store.checked(layer.digest, layer.name)) as stream:
            Unpacker(folder, advance=advance).unpack(stream, layer.name)

    return _once(store, target, fill)


def image_tree(store: Store, layers: Sequence[Layer]) -> Path:
    """Return the folder that holds the unpacked image."""
    key = digest([layer.diff_id for layer in layers])
    target = store.trees / f"image-{key}"
    if target.is_dir():
        return target
    packed = [layer for layer in layers if not (store.trees / layer.diff_id).is_dir()]
    total = sum(layer.unpacked for layer in packed)
    with Progress("unpacking", total) as progress, ThreadPoolExecutor() as pool:
        parts = list(pool.map(lambda layer: layer_tree(store, layer, progress.advance), layers))

    def fill(folder: Path) -> None:
        tell_copied(store.trees, sum(link_tree(str(part), str(folder)) for part in parts))

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
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(target)
    return target


def link_tree(part: str, folder: str) -> int:
    """Add a tree to another by hard links: directories meet, files are equal where they do.

    Return the bytes of files that had to be copied: all of them where there are no hard links.
    """
    there = {entry.name: entry for entry in _entries(folder)}
    copied = 0
    for entry in _entries(part):
        target = f"{folder}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in there:
                os.mkdir(target)  # noqa: PTH102 - strings: see torchkiln.unpack
                os.chmod(target, entry.stat().st_mode)  # noqa: PTH101
            elif not there[entry.name].is_dir(follow_symlinks=False):
                what = f"a layer has a folder where another has a file or a link: {target}"
                raise ArchiveError(what)
            copied += link_tree(entry.path, target)
        else:
            with contextlib.suppress(FileExistsError):
                copied += link_or_copy(entry.path, target)
    return copied


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)
