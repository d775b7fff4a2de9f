"""Where an export goes: room for it first, then a name of its own until it is whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.errors import ExportError
from torchkiln.host import Space, demand, space_faults
from torchkiln.progress import say
from torchkiln.reports import megabytes
from torchkiln.store import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXPECTED: Final = frozenset(
    {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS}
)
_HINT: Final = "name a place that has room: `--output /path/NAME`"
_PARTIAL: Final = re.compile(r"\.(?P<machine>.+)\.(?P<process>\d+)\.partial")


def check_place(target: Path, *, folder: bool) -> None:
    """Refuse a target whose place is missing, and one that is there and is not to be replaced.

    Only a file gives way to a new one: in one step, which a folder cannot, and a device must not.
    """
    if not target.parent.is_dir():
        what = f"there is no such folder: {target.parent}"
        raise ExportError(what, hint=f"mkdir -p {target.parent}")
    if os.path.lexists(target) and (folder or not target.is_file()):
        what = f"this is there already, and is not replaced: {target}"
        raise ExportError(what, hint=f"name another place: --output {target}-2")


def check_room(target: Path, size: int) -> None:
    """Say what an export needs and where; too little room for its `size` (bytes) raises an error.

    It is the `HostError` of every other step that asks for room.
    """
    folder = target.parent
    demand(list(space_faults(Space(path=folder, size=size, hint=_HINT))))
    free = megabytes(shutil.disk_usage(folder).free)
    say(f"about {megabytes(size)} are needed in {folder}, where {free} are free; none in TMPDIR")


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Give a path beside `target` at which to make it; it gets its name when it is whole.

    The path holds this machine's name and this process's id, so that exports at once do not meet,
    and what a killed one left is known: not every cluster's file system has locks.
    """
    _sweep(target)
    path = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        yield path
        _flush(path)
        path.rename(target)
    except OSError as error:
        if error.errno not in _EXPECTED:
            raise
        what = f"the export cannot be written: {target}"
        raise ExportError(what, error.strerror or str(error), _HINT) from error
    finally:
        _remove(path)


def _sweep(target: Path) -> None:
    """Remove what exports to this target left that were killed here; name those of others."""
    for path in sorted(target.parent.glob(f".{target.name}.*.partial")):
        found = _PARTIAL.fullmatch(path.name.removeprefix(f".{target.name}"))
        if found is None:
            continue
        if (
            found["machine"] == socket.gethostname()
            and not Path("/proc", found["process"]).exists()
        ):
            _remove(path)
        else:
            say(f"another export is at work, or was killed, on {found['machine']}: {path}")


def _flush(path: Path) -> None:
    """Bring a file to the disk before it gets its name."""
    if path.is_file():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
