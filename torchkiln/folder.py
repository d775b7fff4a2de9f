"""The files below a folder as entries of a layer, with the modes that images have."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from torchkiln.errors import BuildError
from torchkiln.layer import CHUNK, Entry

if TYPE_CHECKING:
    from collections.abc import Iterator


def tree_entries(root: Path) -> Iterator[Entry]:
    """Give what is below `root` as entries with the modes that images have.

    Everything is readable for all (clusters run images as any user; facts: Apptainer without root),
    except /root; set-id bits go; owners are root.
    """
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            status = path.lstat()
            relative = str(path.relative_to(root))
            if stat.S_ISLNK(status.st_mode):
                yield Entry.link(relative, str(path.readlink()), owner="debian")
            elif stat.S_ISDIR(status.st_mode):
                yield Entry.directory(relative, _folder_mode(relative, status), owner="debian")
            elif stat.S_ISREG(status.st_mode):
                yield _file(path, relative, status)
            else:
                what = f"the base holds neither file, folder nor link: /{relative}"
                raise BuildError(what)


def _folder_mode(path: str, status: os.stat_result) -> int:
    if path == "root":
        return 0o700
    return 0o1777 if status.st_mode & stat.S_ISVTX else 0o755


def _file(path: Path, relative: str, status: os.stat_result) -> Entry:
    def chunks() -> Iterator[bytes]:
        with path.open("rb") as stream:
            while data := stream.read(CHUNK):
                yield data

    mode = status.st_mode & 0o755 | 0o644
    return Entry(path=relative, mode=mode, size=status.st_size, chunks=chunks, owner="debian")
