"""Wait for an engine's work, but not for an engine that has died or hangs."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from threading import Thread
from typing import TYPE_CHECKING, Final, TypeVar

from torchkiln.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchkiln.engine.connection import Engine

BEAT: Final = 5.0  # seconds between two questions
PATIENCE: Final = 60.0  # seconds of silence after which it is given up

_Result = TypeVar("_Result")


def watched(engine: Engine, work: Callable[[], _Result]) -> _Result:
    """Return what `work` returns; an engine that is silent for a minute raises `EngineError`.

    An engine can be busy for long without a word, so no time limit on the work itself can tell
    whether it hangs. `work` runs in a thread that is left behind where it does.
    """
    outcome: Future[_Result] = Future()
    Thread(target=_run, args=(work, outcome), daemon=True).start()
    heard = time.monotonic()
    while not wait([outcome], timeout=BEAT).done:
        if engine.answers():
            heard = time.monotonic()
        elif time.monotonic() - heard > PATIENCE:
            what = f"{engine.title} has stopped answering"
            raise EngineError(what, f"no answer for {PATIENCE:.0f} s", "start it again, then retry")
    return outcome.result()


def _run(work: Callable[[], _Result], outcome: Future[_Result]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
        outcome.set_exception(error)
