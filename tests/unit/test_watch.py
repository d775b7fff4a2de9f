from __future__ import annotations

import threading
import time

import pytest
from docker_server import Daemon, engine_of

from torchkiln.engine import connection, watch
from torchkiln.engine.watch import watched
from torchkiln.errors import EngineError


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask often and lose patience soon."""
    monkeypatch.setattr(watch, "BEAT", 0.05)
    monkeypatch.setattr(watch, "PATIENCE", 0.5)
    monkeypatch.setattr(connection, "_ANSWER", 0.2)


def test_what_the_work_gives_is_returned_and_what_it_raises_is_raised() -> None:
    def fail() -> None:
        message = "the work failed"
        raise ValueError(message)

    with engine_of(Daemon()) as engine:
        assert 7 == watched(engine, lambda: 7)
        with pytest.raises(ValueError, match="the work failed"):
            watched(engine, fail)


def test_long_work_of_an_engine_that_answers_is_waited_for() -> None:
    daemon = Daemon()
    with engine_of(daemon) as engine:
        watched(engine, lambda: time.sleep(1))

    assert daemon.requests.count("GET /version") > 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_falls_silent_is_given_up() -> None:
    daemon, never = Daemon(), threading.Event()
    with engine_of(daemon) as engine:
        daemon.silent.set()
        with pytest.raises(EngineError, match="has stopped answering"):
            watched(engine, never.wait)
        never.set()
