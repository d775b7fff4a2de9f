"""Who works in the store, and when nobody does: one lock for all of it.

Each command holds the lock shared while it runs, so that any number work at once; `gc` takes things
away only while it holds it alone. The kernel drops a lock with its process, whatever ends that, so
nothing is left to be cleared. On NFS, flock(2) is a lock at the server and so one for all machines,
unless the file system is mounted with `nolock` or `local_lock=flock`: then gc sees one machine.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln import flock
from torchkiln.errors import StoreError
from torchkiln.files import open_own
from torchkiln.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.store import Store

_LOCK: Final = "locks/store"
_PROC: Final = Path("/proc")


@contextmanager
def in_use(store: Store) -> Iterator[None]:
    """Let nothing be taken out of the store; wait for who is taking things out now.

    A store that cannot be written or locked is held by nobody: what works in it says so itself, and
    `gc` takes nothing out of it either.
    """
    with ExitStack() as stack:
        with suppress(StoreError):
            handle = _open(store, os.O_RDONLY)
            stack.callback(os.close, handle)
            message = f"waiting for `./kiln gc` to end in {store.root}"
            with store.reporting():
                flock.acquire(handle, shared=True, waiting=lambda: say(message))
        yield


@contextmanager
def alone(store: Store, *, wait: bool) -> Iterator[None]:
    """Hold the store while nobody works in it.

    Where somebody does, `wait` for the end of that, else raise a `StoreError` that names them.
    """
    handle = _open(store, os.O_RDWR)  # a lock of one alone needs it on NFS (flock(2))
    try:
        with store.reporting():
            if wait:
                flock.acquire(
                    handle, waiting=lambda: say(f"waiting for the end of:\n{_named(store)}")
                )
            elif not flock.try_acquire(handle):
                what = f"the store is in use: {store.root}"
                raise StoreError(what, _named(store), "./kiln gc --remove --wait")
        yield
    finally:
        os.close(handle)


def holders(store: Store) -> dict[int, str]:
    """Return the command line of each process that works in the store, by its id.

    Those of other users, containers and machines cannot be seen.
    """
    lock = (store.root / _LOCK).resolve()
    found = {}
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if any(_holds(handle, lock) for handle in (process / "fd").iterdir()):
                words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                found[int(process.name)] = b" ".join(words).decode(errors="replace")
    return {pid: command for pid, command in found.items() if pid != os.getpid()}


def _open(store: Store, mode: int) -> int:
    path = store.root / _LOCK
    store.make(path.parent)
    with store.reporting():
        return open_own(path, mode | os.O_CREAT)


def _holds(handle: Path, lock: Path) -> bool:
    """Tell whether an open file of a process is the lock, and locked: others wait for it."""
    if handle.readlink() != lock:
        return False
    return "lock:" in (handle.parent.parent / "fdinfo" / handle.name).read_text()


def _named(store: Store) -> str:
    lines = [f"{pid}: {command}" for pid, command in sorted(holders(store).items())]
    return "\n".join(lines or ["a process that cannot be seen from here"])
