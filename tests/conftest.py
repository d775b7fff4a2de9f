"""What all tests share: the slow ones run when asked for."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--slow`."""
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark `slow`, let Ctrl-C reach what tests start, and clean up after any signal.

    A shell that runs us with `&` has Ctrl-C ignored, and so would every process that comes from
    here. SIGTERM and SIGHUP would end us before fixtures have removed what they made: gigabytes.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    config.addinivalue_line("markers", "slow: takes minutes; runs with `./kiln test --slow`")


@pytest.fixture(autouse=True, scope="session")
def _stopped_run_leaves_nothing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Remove what pytest would keep of a run that was stopped, as of a run that passed."""
    yield
    if request.session.exitstatus == pytest.ExitCode.INTERRUPTED:
        shutil.rmtree(tmp_path_factory.getbasetemp(), ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the slow tests, and say how they are run, unless asked for."""
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: ./kiln test --slow"))
