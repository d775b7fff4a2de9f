"""File systems without locks, whose fault is put in where the kernel would tell it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from torchkiln.download import exclusive
from torchkiln.environment.claim import claimed
from torchkiln.environment.record import environment
from torchkiln.errors import EnvError, KilnError, StoreError
from torchkiln.hold import alone, in_use
from torchkiln.store import Store
from torchkiln.stored import things

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = Path(__file__).parents[2] / "torchkiln"
WHY = "its file system does not support flock"


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that locks nothing, with the rest of a process that was killed."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/left.lock").touch()
    monkeypatch.setattr("fcntl.flock", refuse)
    return Store(tmp_path)


def enter(*contexts: Any) -> None:  # noqa: ANN401
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.put(b"data"),
        lambda store: enter(store.exclusive("layer")),
        lambda store: store.sweep(),
        lambda store: enter(alone(store, wait=False)),
        lambda store: enter(alone(store, wait=True)),
        lambda store: enter(store.reporting(), exclusive(store.root / "partial/x")),
        things,
    ],
)
def test_what_needs_a_lock_of_the_store_says_that_there_are_none(
    store: Store, use: Callable[[Store], object]
) -> None:
    with pytest.raises(StoreError, match=re.escape(str(store.root))) as caught:
        use(store)

    assert WHY == caught.value.why
    assert "name another place: export TORCHKILN_HOME=/path" == caught.value.hint


def test_what_only_reads_such_a_store_works(store: Store) -> None:
    with in_use(store):
        pass


def test_an_environment_without_locks_is_made_elsewhere(store: Store) -> None:
    with pytest.raises(EnvError, match="environment cannot be written") as caught:
        enter(claimed(environment(store.root / "env")))

    assert WHY == caught.value.why
    assert "./kiln env --cpu --path ~/env" == caught.value.hint


def test_another_failure_of_a_lock_is_no_such_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match="Input/output") as caught:
        store.put(b"data")

    assert not isinstance(caught.value, KilnError)


def test_a_lock_of_one_alone_is_on_a_file_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS refuses any other (flock(2), "NFS details"), here as its client in the kernel does."""
    real = fcntl.flock

    def nfs(handle: int, operation: int) -> None:
        readable_only = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if operation & fcntl.LOCK_EX and readable_only:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(handle, operation)

    monkeypatch.setattr("fcntl.flock", nfs)
    store = Store(tmp_path)
    store.put(b"data")
    with in_use(store), store.exclusive("x"), exclusive(tmp_path / "partial/x") as stream:
        stream.write(b"y")
    with alone(store, wait=False):
        store.sweep()
        things(store)
    with claimed(environment(tmp_path / "env")):
        pass
    with Path(__file__).open("rb") as control, pytest.raises(OSError, match="Bad file"):
        fcntl.flock(control.fileno(), fcntl.LOCK_EX)


def test_files_are_locked_in_one_place() -> None:
    """So that none of the others can forget a file system's refusal."""
    found = [path.name for path in PACKAGE.rglob("*.py") if "fcntl.flock(" in path.read_text()]

    assert ["flock.py"] == found
