from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from torchkiln.doctor.apart import AT_ONCE, run_apart

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 20.0


def segfault() -> None:
    ctypes.string_at(0)


def refuse() -> None:
    raise ValueError("no such GPU")  # noqa: EM101


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        (os.abort, "ended by SIGABRT"),
        (segfault, "ended by SIGSEGV"),
        (lambda: os._exit(3), "ended by exit code 3"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (refuse, "ValueError: no such GPU (test_doctor_apart.py:"),
    ],
)
def test_a_function_that_breaks_is_named_and_stops_no_other(
    function: Callable[[], object], failure: str
) -> None:
    done = run_apart({"bad": function, "good": lambda: 7}, PATIENCE)
    assert done["bad"].failure.startswith(failure)
    assert done["good"].value == 7


def test_a_function_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def hang() -> None:
        note.write_text(str(subprocess.Popen(["sleep", "600"]).pid))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)

    began = time.monotonic()
    done = run_apart({"bad": hang, "good": lambda: 7}, 1.0)
    assert done["bad"].failure == "no answer in 1 s"
    assert done["good"].value == 7
    assert time.monotonic() - began < 10
    assert not is_running(int(note.read_text()))


def test_what_a_function_left_running_ends_with_it() -> None:
    child = run_apart({"leave": lambda: subprocess.Popen(["sleep", "600"]).pid}, PATIENCE)
    assert not is_running(child["leave"].value)


def is_running(pid: int) -> bool:
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True


def test_results_come_in_the_order_asked_for_however_many_and_large() -> None:
    functions = {f"{number}": (lambda n=number: "x" * 300_000 + str(n)) for number in range(20)}
    assert len(functions) > AT_ONCE
    done = run_apart(functions, PATIENCE)
    assert list(done) == list(functions)
    assert all(one.value.endswith(name) for name, one in done.items())


def test_a_function_prints_to_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    run_apart({"loud": lambda: os.write(1, b"noise") + os.write(2, b"noise")}, PATIENCE)
    assert capfd.readouterr() == ("", "")


def test_a_value_that_cannot_be_sent_is_a_failure() -> None:
    assert "pickle" in run_apart({"bad": lambda: lambda: 0}, PATIENCE)["bad"].failure


def test_an_interrupt_leaves_no_process_behind(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def hang() -> None:
        note.write_text(str(os.getpid()))
        time.sleep(600)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_apart({"slow": hang}, 600)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not is_running(int(note.read_text()))
