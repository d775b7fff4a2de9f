"""Hold the folder of an environment, so that one process works in it, and only in one of ours."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from typing import TYPE_CHECKING

from torchkiln import flock
from torchkiln.environment.record import CONDA_RECORD, LOCK_FILE, RECORD
from torchkiln.errors import EnvError
from torchkiln.progress import say
from torchkiln.store import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.environment.record import Environment


@contextlib.contextmanager
def claimed(env: Environment) -> Iterator[int]:
    """Make the folder if need be and hold it; wait for who has it. Give the lock's descriptor.

    A child process that gets the descriptor keeps others out for as long as it lives: where we are
    killed, the installer goes on for a while. A folder that is not ours raises `EnvError`.
    """
    handle = _open(env)
    try:
        message = f"waiting for another `kiln env` that is at {env.shown}"
        with _reporting(env):
            flock.acquire(handle, waiting=lambda: say(message))
        # Who had it may have failed and removed the folder, this file with it.
        if not env.lock_file.exists() or not os.path.samestat(
            os.fstat(handle), env.lock_file.stat()
        ):
            os.close(handle)
            handle = -1
            with claimed(env) as again:
                yield again
            return
        yield handle
    finally:
        if handle != -1:
            os.close(handle)


def _open(env: Environment) -> int:
    demand_ours(env)
    with _reporting(env):
        env.root.mkdir(parents=True, exist_ok=True)
        # Opened for writing, which a lock on NFS needs (flock(2)).
        return os.open(env.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


@contextlib.contextmanager
def _reporting(env: Environment) -> Iterator[None]:
    """Turn a folder that cannot be written or locked into an `EnvError`."""
    try:
        yield
    except OSError as error:
        what = f"the environment cannot be written: {env.shown}"
        hint = f"./kiln env {env.asked} --path ~/{shlex.quote(env.root.name)}"
        raise EnvError(what, error.strerror or str(error), hint) from error


def demand_ours(env: Environment) -> None:
    """Raise `EnvError` unless the folder is ours, empty, or not there; it must stay untouched."""
    if os.pathsep in str(env.root):
        what = f"an environment's path cannot have a `{os.pathsep}`: {env.shown}"
        raise EnvError(what, "PATH would be cut there", env.elsewhere)
    try:
        if not os.path.lexists(env.root) or (env.root.is_dir() and not any(env.root.iterdir())):
            return
        # Looked for last, because another of us may have begun just now.
        if env.lock_file.exists():
            return
    except PermissionError as error:
        what = f"the folder cannot be read: {env.shown}"
        raise EnvError(what, str(error.strerror)) from None
    what = f"there is something else at this path: {env.shown}"
    why = "it was not made by `./kiln env`, so it is left as it is"
    raise EnvError(what, why, env.elsewhere)


def clear(env: Environment) -> None:
    """Remove everything but the lock; the records first, so that no rest of it is trusted."""
    for name in (RECORD, CONDA_RECORD):
        (env.own / name).unlink(missing_ok=True)
    for entry in env.root.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        elif entry.name != LOCK_FILE:
            entry.unlink()


def remove(env: Environment) -> None:
    """Remove what was begun; the caller holds the folder."""
    with contextlib.suppress(OSError):
        clear(env)
        env.lock_file.unlink()
        env.root.rmdir()
    shutil.rmtree(env.root, ignore_errors=True)
