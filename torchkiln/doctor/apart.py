"""Run functions apart, each in a forked process of its own, so that none can crash or stop others.

A process's result comes back through a pipe, pickled: it is our own code that wrote it, in a copy
of this process.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

AT_ONCE: Final = 8


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a function came to after `seconds`: its `value`, or the `failure` that it ended with."""

    value: Any = None
    failure: str = ""
    seconds: float = 0.0


@dataclass(kw_only=True)
class _Process:
    id: str
    number: int
    stream: int
    began: float
    output: bytes = b""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def run_apart(
    functions: Mapping[str, Callable[[], Any]],
    patience: float,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Done]:
    """Return what each of `functions` came to, in their order; none gets more than `patience`.

    `patience` is in seconds; `announce` hears the id of each when it starts. Whatever a function
    started and left running in its process group ends with it.
    """
    running: dict[int, _Process] = {}
    try:
        done = dict(_results(functions, patience, announce, running))
    finally:
        for one in running.values():  # where this process itself is told to stop
            _end(one)
    return {name: done[name] for name in functions}


def _results(
    functions: Mapping[str, Callable[[], Any]],
    patience: float,
    announce: Callable[[str], None],
    running: dict[int, _Process],
) -> Iterator[tuple[str, Done]]:
    waiting = list(functions)
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            name = waiting.pop(0)
            announce(name)
            started = _start(name, functions[name])
            running[started.stream] = started
        for stream in select.select(list(running), [], [], 0.1)[0]:
            data = os.read(stream, 1 << 16)
            running[stream].output += data
            if not data:
                one = running.pop(stream)
                yield one.id, _read(one, _end(one))
        for one in [one for one in running.values() if one.seconds > patience]:
            _end(running.pop(one.stream))
            yield one.id, Done(failure=f"no answer in {patience:.0f} s", seconds=one.seconds)


def _start(name: str, function: Callable[[], Any]) -> _Process:
    reader, writer = os.pipe()
    began = time.monotonic()
    number = os.fork()
    if number == 0:
        _be_the_child(function, writer)
    os.close(writer)
    with contextlib.suppress(OSError):  # it has done so itself, or has ended
        os.setpgid(number, number)
    return _Process(id=name, number=number, stream=reader, began=began)


def _be_the_child(function: Callable[[], Any], writer: int) -> None:
    """Write what `function` comes to and end, without what the parent would do at its end."""
    try:
        os.setpgid(0, 0)
        _be_silent()
        done = _tried(function)
        with os.fdopen(writer, "wb") as stream:
            stream.write(done)
    finally:
        os._exit(0)


def _be_silent() -> None:
    """Send to nowhere what libraries and checks print: the doctor has one voice."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _tried(function: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((function(), ""))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is this function's alone
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{PurePath(last.filename).name}:{last.lineno}"
        return pickle.dumps((None, f"{type(error).__name__}: {error} ({where})"))


def _end(one: _Process) -> int:
    """Kill what is left of the process and all that it started; return how it had ended."""
    os.close(one.stream)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(one.number, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(one.number, 0)[1])


def _read(one: _Process, code: int) -> Done:
    try:
        value, failure = pickle.loads(one.output)  # noqa: S301 - see the top of this file
    except Exception:  # noqa: BLE001 - pickle raises what it likes
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Done(failure=f"ended by {name}", seconds=one.seconds)
    return Done(value=value, failure=failure, seconds=one.seconds)
