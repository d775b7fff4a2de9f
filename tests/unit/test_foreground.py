"""Signals as people and batch systems send them, to real programs in the sandbox."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, Signals
from typing import TYPE_CHECKING, Final

import pytest
from sandboxes import PYTHONPATH, needs_sandbox

from torchkiln import foreground
from torchkiln.foreground import Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = needs_sandbox

# A task as tasks.py makes it, of an image whose programs are the host's.
TASK: Final = """
import fcntl, os, sys, termios
from pathlib import Path
from sandboxes import image
from torchkiln.cli.flags import told
from torchkiln.run import RunOptions, run
task, folder, *command = sys.argv[1:]
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
store, made = image(Path(folder))
mounts = ("/usr:/usr", f"{folder}:/data:rw")
options = RunOptions(mounts=mounts, interactive=task == "shell")
told(lambda: sys.exit(run(store, made, command, options)))()
"""
# A second signal would end the saving of the first.
TRAINING: Final = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    open("/data/begun", "w").close()
    time.sleep(60)
except KeyboardInterrupt:
    with open("/data/checkpoint", "w", buffering=1) as file:
        for _ in range(20):
            file.write("weights\\n")
            time.sleep(0.05)
    sys.exit(3)
"""
TRAIN: Final = ("/usr/bin/python3", "-c", TRAINING)
PROMPT: Final = b"$ "
SAVED: Final = "weights\n" * 20


@contextmanager
def task(
    folder: Path, *command: str, name: str = "run", terminal: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Give a task that runs `command` in a process group of its own."""
    path = os.pathsep.join([str(Path(__file__).parent), PYTHONPATH])
    process = subprocess.Popen(
        [sys.executable, "-c", TASK, name, str(folder), *command],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], object]) -> None:
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to this in 10 s")


def to_the_process(process: subprocess.Popen[bytes], number: Signals) -> None:
    process.send_signal(number)


def to_the_group(process: subprocess.Popen[bytes], number: Signals) -> None:
    os.killpg(process.pid, number)


def as_timeout_does(process: subprocess.Popen[bytes], number: Signals) -> None:
    """timeout(1) signals its child, then its group with the child in it."""
    process.send_signal(number)
    time.sleep(0.05)
    os.killpg(process.pid, number)


def to_all_but_the_program(process: subprocess.Popen[bytes], number: Signals) -> None:
    """As `pkill -f` and systemd do, to bwrap too."""
    outside, inside = descendants(process.pid)[:2]
    for one in (process.pid, outside, inside):
        os.kill(one, number)


def descendants(number: int) -> list[int]:
    """Return the processes that come from one, parents first."""
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
@pytest.mark.parametrize(
    "send", [to_the_process, to_the_group, as_timeout_does, to_all_but_the_program]
)
def test_a_program_gets_a_signal_once_and_ends_by_itself(
    tmp_path: Path, send: Callable[[subprocess.Popen[bytes], Signals], None], number: Signals
) -> None:
    with task(tmp_path, *TRAIN) as process:
        wait_until((tmp_path / "begun").exists)
        send(process, number)

        assert 3 == process.wait(10)
    assert SAVED == (tmp_path / "checkpoint").read_text()


def test_a_second_ctrl_c_kills_at_once(tmp_path: Path) -> None:
    with task(tmp_path, *TRAIN) as process:
        wait_until((tmp_path / "begun").exists)
        process.send_signal(SIGINT)
        wait_until((tmp_path / "checkpoint").exists)
        time.sleep(0.3)  # a person's fingers
        process.send_signal(SIGINT)

        assert 128 + SIGKILL == process.wait(0.5)
    assert SAVED != (tmp_path / "checkpoint").read_text()


@pytest.mark.parametrize("number", [SIGHUP, SIGINT, SIGTERM, SIGUSR1])
def test_a_program_that_a_signal_ends_gives_its_number(tmp_path: Path, number: Signals) -> None:
    with task(tmp_path, "sh", "-c", "touch /data/begun; exec sleep 60") as process:
        wait_until((tmp_path / "begun").exists)
        process.send_signal(number)

        assert 128 + number == process.wait(10)


def test_a_program_can_take_any_signal_and_go_on(tmp_path: Path) -> None:
    """`sbatch --signal=USR1@90` asks for a checkpoint before the time is up."""
    script = "trap 'touch /data/asked' USR1; touch /data/begun; while :; do sleep 0.1; done"
    with task(tmp_path, "sh", "-c", script) as process:
        wait_until((tmp_path / "begun").exists)
        process.send_signal(SIGUSR1)
        wait_until((tmp_path / "asked").exists)

        assert process.poll() is None


def test_only_the_program_itself_is_signalled_as_docker_does(tmp_path: Path) -> None:
    """A DataLoader's worker that dies of SIGTERM makes the training fail."""
    worker = "trap 'touch /data/worker' TERM; touch /data/begun; while :; do sleep 0.1; done"
    script = f'sh -c "{worker}" & trap "sleep 0.5; exit 4" TERM; wait'
    with task(tmp_path, "sh", "-c", script) as process:
        wait_until((tmp_path / "begun").exists)
        process.send_signal(SIGTERM)

        assert 4 == process.wait(10)
    assert not (tmp_path / "worker").exists()


@pytest.mark.parametrize("send", [to_the_process, to_the_group])
def test_ctrl_c_reaches_a_training_behind_a_script(
    tmp_path: Path, send: Callable[[subprocess.Popen[bytes], Signals], None]
) -> None:
    """As at a terminal, which signals the whole group; a shell waits for its command."""
    saving = "sleep 0.3; echo saved >>/data/saved; exit 3"
    training = f"trap '{saving}' INT; touch /data/begun; while :; do sleep 0.1; done"
    with task(tmp_path, "bash", "-c", f'bash -c "{training}"; exit $?') as process:
        wait_until((tmp_path / "begun").exists)
        send(process, SIGINT)

        assert 3 == process.wait(10)
    assert "saved\n" == (tmp_path / "saved").read_text()


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """By `nohup`."""
    before = signal.signal(SIGHUP, signal.SIG_IGN)
    try:
        with task(tmp_path, *TRAIN) as process:
            wait_until((tmp_path / "begun").exists)
            process.send_signal(SIGHUP)
            time.sleep(0.3)
            process.send_signal(SIGTERM)

            assert 3 == process.wait(10)
    finally:
        signal.signal(SIGHUP, before)


def test_nothing_is_left_where_the_task_is_killed(tmp_path: Path) -> None:
    with task(tmp_path, "sh", "-c", "sleep 60 & touch /data/begun; wait") as process:
        wait_until((tmp_path / "begun").exists)
        *_, program, child = found = descendants(process.pid)
        assert 4 == len(found), "a control: bwrap twice, a shell, and its child"
        process.send_signal(SIGKILL)
        process.wait()

        wait_until(lambda: not Path(f"/proc/{program}").exists())
        wait_until(lambda: not Path(f"/proc/{child}").exists())


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a terminal: that of the person, and that of the programs."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def test_ctrl_c_at_a_terminal_reaches_the_program_once(
    tmp_path: Path, terminal: tuple[int, int]
) -> None:
    keyboard, screen = terminal
    with task(tmp_path, *TRAIN, terminal=screen) as process:
        wait_until((tmp_path / "begun").exists)
        os.write(keyboard, b"\x03")

        assert 3 == process.wait(10)
    assert SAVED == (tmp_path / "checkpoint").read_text()


def test_a_shell_has_its_job_control(tmp_path: Path, terminal: tuple[int, int]) -> None:
    """Ctrl-C in a command and at the prompt; it ignores SIGTERM, as any shell at a terminal."""
    keyboard, screen = terminal
    (tmp_path / "train.py").write_text(TRAINING)
    with task(tmp_path, "/bin/bash", "--norc", name="shell", terminal=screen) as process:
        said = typed(keyboard, b"", PROMPT)
        said += typed(keyboard, b"/usr/bin/python3 /data/train.py\n", b"\n")
        wait_until((tmp_path / "begun").exists)
        said += typed(keyboard, b"\x03", PROMPT)
        said += typed(keyboard, b"echo code $?\n", PROMPT)
        said += typed(keyboard, b"some text", b"some text")
        said += typed(keyboard, b"\x03", PROMPT)
        process.send_signal(SIGTERM)
        said += typed(keyboard, b"sleep 0.3; echo next\n", PROMPT)
        os.write(keyboard, b"exit 7\n")

        assert 7 == process.wait(10)
    assert SAVED == (tmp_path / "checkpoint").read_text()
    assert b"\ncode 3\r\n" in said
    assert b"\nnext\r\n" in said
    assert b"stopped" not in said
    assert b"job control" not in said


def typed(keyboard: int, keys: bytes, expected: bytes) -> bytes:
    """Type `keys` and return what comes on the screen until it ends with `expected`."""
    time.sleep(0.2)  # readline loses a signal between its last look for one and its read
    os.write(keyboard, keys)
    said = b""
    while not said.endswith(expected):
        assert select.select([keyboard], [], [], 10)[0], f"{expected!r} did not come: {said!r}"
        said += os.read(keyboard, 1 << 16)
    return said


def test_a_signal_waits_for_a_program_that_is_being_started() -> None:
    looks = iter([False, False, True])
    sleep = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]

    def start() -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), SIGTERM)
        process = subprocess.Popen(sleep, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.read(1)
        return process

    def send(process: subprocess.Popen[bytes], number: Signals) -> bool:
        found = next(looks)
        if found:
            process.send_signal(number)
        return found

    assert Ended(code=143, signal=SIGTERM) == foreground.run(start, send)
    assert [] == list(looks)


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in foreground.PASSED]
    ended = foreground.run(lambda: subprocess.Popen(["sh", "-c", "exit 5"]), lambda *_: True)

    assert Ended(code=5) == ended
    assert before == [signal.getsignal(number) for number in foreground.PASSED]
