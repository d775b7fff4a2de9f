"""Write an image's file system as a plain folder of the caller's own files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torchkiln.layer import MTIME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torchkiln.layer import Entry


def write_rootfs(
    folder: Path,
    entries: Iterable[Entry],
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Fill `folder`, which is empty and nobody else's; nothing in it is shared with the store.

    The owner may write everything: Apptainer's sandboxes could not be removed otherwise
    (singularity#4524). `entries` are those of `torchkiln.export.filesystem`, so that each path's
    parents are folders that were made here. Times are those of the layers.
    """
    folders = [(str(folder), 0o755)]
    for entry in entries:
        path = f"{folder}/{entry.path}"
        if entry.is_directory:
            os.mkdir(path, 0o700)  # noqa: PTH102 - strings: see torchkiln.unpack
            folders.append((path, entry.mode | 0o700))
        elif entry.target is not None:
            os.symlink(entry.target, path)  # noqa: PTH211
            os.utime(path, (MTIME, MTIME), follow_symlinks=False)
        else:
            _file(path, entry)
        advance(entry.size)
    # Last, because each file that is made in a folder changes the folder's time.
    for path, mode in reversed(folders):
        os.chmod(path, mode)  # noqa: PTH101
        os.utime(path, (MTIME, MTIME))


def _file(path: str, entry: Entry) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as stream:
        for chunk in entry.chunks() if entry.chunks else ():
            stream.write(chunk)
        os.fchmod(handle, entry.mode | 0o200)
        os.utime(handle, (MTIME, MTIME))
