"""Who holds a store: any number of workers, or one that takes things away."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sandboxes import PYTHONPATH

from torchkiln.errors import StoreError
from torchkiln.hold import alone, holders, in_use
from torchkiln.store import Store

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
import sys
from pathlib import Path
from torchkiln.hold import in_use
from torchkiln.store import Store
with in_use(Store(Path(sys.argv[1]))):
    print("working", flush=True)
    sys.stdin.read()
"""


def worker(root: Path) -> subprocess.Popen[str]:
    """Start a process that works in the store at `root` until its standard input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )


def is_working(process: subprocess.Popen[str]) -> bool:
    assert process.stdout
    return process.stdout.readline() == "working\n"


def test_any_number_work_at_once_and_none_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with in_use(store), in_use(store):
        pass

    with alone(store, wait=False):
        assert {} == holders(store)


def test_nobody_is_alone_while_another_works_and_that_one_is_named(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        assert is_working(process)
        with pytest.raises(StoreError, match="the store is in use") as caught:
            alone(Store(tmp_path), wait=False).__enter__()
        process.communicate()

    assert f"{process.pid}: {sys.executable} -c" in caught.value.why
    assert "--wait" in caught.value.hint


def test_a_killed_worker_holds_nothing(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        assert is_working(process)
        process.kill()
        process.wait()

    with alone(Store(tmp_path), wait=False):
        pass


def test_who_waits_is_alone_when_the_last_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(tmp_path) as process:
        assert is_working(process)
        command = [sys.executable, "-c", f"import time; time.sleep(0.5); {_KILL}", str(process.pid)]
        with subprocess.Popen(command), alone(Store(tmp_path), wait=True):
            assert {} == holders(Store(tmp_path))

    assert f"waiting for the end of:\n{process.pid}: " in capsys.readouterr().err


_KILL = "import os, sys; os.kill(int(sys.argv[1]), 9)"


def test_who_comes_while_one_is_alone_waits_and_says_so(tmp_path: Path) -> None:
    with alone(Store(tmp_path), wait=False):
        process = worker(tmp_path)
        assert process.stderr
        assert "waiting for `./kiln gc`" in process.stderr.readline()
        assert {} == holders(Store(tmp_path)), "it waits, so nobody waits for it"
        assert process.poll() is None
    with process:
        assert is_working(process)
        process.communicate()


def test_a_store_that_cannot_be_made_is_held_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with in_use(Store(tmp_path / "file/store")):
        pass
