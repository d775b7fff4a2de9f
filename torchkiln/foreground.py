"""Wait for a program in the foreground as `docker run` does: signals are the program's business.

So a training can save a checkpoint on Ctrl-C, or when a batch system says that its time is up.
"""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from signal import Signals
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import Popen

PASSED: Final = (
    Signals.SIGHUP,
    Signals.SIGINT,
    Signals.SIGQUIT,
    Signals.SIGTERM,
    Signals.SIGUSR1,  # with the next, what `sbatch --signal` and its like ask for checkpoints by
    Signals.SIGUSR2,
)
"""The signals that go to the program."""

_SAME: Final = 0.2  # seconds; timeout(1) signals its child, and then its group with the child in it
_RETRY: Final = 0.02  # seconds between two looks for a program that is being started


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended: its exit code, 128 + N after signal N, and the first signal passed."""

    code: int
    signal: Signals | None = None


def run(start: Callable[[], Popen[bytes]], send: Callable[[Popen[bytes], Signals], bool]) -> Ended:
    """Start a program and wait until it has ended; a second Ctrl-C kills it.

    `send` passes a signal on. It returns False while there is no program yet to take it.
    """
    heard: SimpleQueue[Signals | None] = SimpleQueue()
    passed: list[Signals] = []
    with _listening(heard.put), start() as process:
        Thread(target=_wait, args=(process, heard.put), daemon=True).start()
        try:
            for number in iter(heard.get, None):
                passed.append(number)
                if number is Signals.SIGINT and passed.count(number) > 1:
                    _kill(process, send)
                else:
                    _pass(process, send, number)
        except BaseException:
            process.kill()
            raise
    code = process.returncode
    return Ended(code=code if code >= 0 else 128 - code, signal=next(iter(passed), None))


@contextmanager
def deaf() -> Iterator[None]:
    """Let the processes that are started meanwhile block the signals that are passed on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _listening(hear: Callable[[Signals], object]) -> Iterator[None]:
    """Call `hear` for each signal, but for those that are ignored: by `nohup`, or after `&`."""
    last: dict[int, float] = {}

    def handle(number: int, _: Any) -> None:  # noqa: ANN401 - a frame
        now = time.monotonic()
        if now - last.get(number, -_SAME) >= _SAME:
            hear(Signals(number))
        last[number] = now

    before = {number: signal.getsignal(number) for number in PASSED}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(process: Popen[bytes], tell: Callable[[None], object]) -> None:
    process.wait()
    tell(None)


def _pass(
    process: Popen[bytes], send: Callable[[Popen[bytes], Signals], bool], number: Signals
) -> None:
    while process.poll() is None and not send(process, number):
        time.sleep(_RETRY)


def _kill(process: Popen[bytes], send: Callable[[Popen[bytes], Signals], bool]) -> None:
    if not send(process, Signals.SIGKILL):
        process.kill()
