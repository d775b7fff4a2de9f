"""Locks on open files (flock(2)): between processes, and gone with the last one that has the file.

Standard library alone, because `torchkiln.bootstrap` locks `.venv` before anything is in it.
"""

from __future__ import annotations

import errno
import fcntl
from typing import TYPE_CHECKING, Final

from torchkiln.files import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

# Lustre mounted without `flock`, NFS without its lock daemon. They refuse lockf(3) as well, so
# there is nothing to fall back on; without a lock, two builds at once would damage a store.
_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})


def acquire(
    handle: int, *, shared: bool = False, waiting: Callable[[], object] = lambda: None
) -> None:
    """Lock an open file; where another process has it, call `waiting` and wait.

    On NFS, a lock that is not `shared` needs a file that is open for writing (flock(2)).
    """
    if not try_acquire(handle, shared=shared):
        waiting()
        _flock(handle, _kind(shared=shared))


def try_acquire(handle: int, *, shared: bool = False) -> bool:
    """Lock an open file now; return False where another process has it."""
    try:
        _flock(handle, _kind(shared=shared) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kind(*, shared: bool) -> int:
    return fcntl.LOCK_SH if shared else fcntl.LOCK_EX


def _flock(handle: int, operation: int) -> None:
    try:
        fcntl.flock(handle, operation)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        raise UnsupportedError(error.errno, "its file system does not support flock") from error
