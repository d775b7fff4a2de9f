"""Run checks, each in a forked process of its own, so that none can crash or stop the others."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torchkiln.doctor.checks import Check
    from torchkiln.doctor.facts import Facts

AT_ONCE: Final = 8


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check came to, and the seconds that it took."""

    check: Check
    outcome: Outcome
    seconds: float


@dataclass(kw_only=True)
class _Running:
    check: Check
    process: int
    stream: int
    began: float
    output: bytes = b""


def run_checks(
    checks: Sequence[Check], facts: Facts, announce: Callable[[str], None]
) -> list[Finding]:
    """Return what each of `checks` finds, in their order; `announce` hears the id of each."""
    findings = {one.check.id: one for one in _findings(checks, facts, announce)}
    return [findings[one.id] for one in checks]


def _findings(
    checks: Sequence[Check], facts: Facts, announce: Callable[[str], None]
) -> Iterator[Finding]:
    waiting, running = list(checks), dict[int, _Running]()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            announce(waiting[0].id)
            started = _start(waiting.pop(0), facts)
            running[started.stream] = started
        for stream in select.select(list(running), [], [], 0.1)[0]:
            data = os.read(stream, 65536)
            running[stream].output += data
            if not data:
                yield _ended(running.pop(stream))
        now = time.monotonic()
        for one in list(running.values()):
            if now - one.began > facts.subject.patience:
                yield _given_up(running.pop(one.stream))


def _start(check: Check, facts: Facts) -> _Running:
    reader, writer = os.pipe()
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        os.close(reader)
        _be_the_child(check, facts, writer)
    os.close(writer)
    return _Running(check=check, process=process, stream=reader, began=began)


def _be_the_child(check: Check, facts: Facts, writer: int) -> None:
    """Run `check`, write its outcome as JSON and end, without what the parent does at its end."""
    try:
        os.setsid()  # so that it ends with all that it started
        outcome = check.function(facts)
        os.write(writer, json.dumps(asdict(outcome)).encode())
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is this check's alone
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"  # noqa: PTH119
        text = f"{type(error).__name__}: {error} ({where})"
        os.write(writer, json.dumps(asdict(_crashed(text))).encode())
    finally:
        os._exit(0)


def _ended(one: _Running) -> Finding:
    os.close(one.stream)
    _, status = os.waitpid(one.process, 0)
    if one.output:
        return _finding(one, Outcome(**json.loads(one.output)))
    code = os.waitstatus_to_exitcode(status)
    return _finding(one, _crashed(f"ended by {signal.Signals(-code).name}"))


def _given_up(one: _Running) -> Finding:
    os.close(one.stream)
    os.killpg(one.process, signal.SIGKILL)
    os.waitpid(one.process, 0)
    return _finding(one, _crashed(f"no answer in {time.monotonic() - one.began:.0f} s"))


def _crashed(evidence: str) -> Outcome:
    cause = "this check itself failed; it says nothing of what it looks at"
    return Outcome(verdict="crashed", evidence=evidence, cause=cause)


def _finding(one: _Running, outcome: Outcome) -> Finding:
    return Finding(check=one.check, outcome=outcome, seconds=time.monotonic() - one.began)
