"""One line on stderr that says how far a long step is: bytes, rate, time left."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING, Any, Final, cast

from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

_LABEL: Final[ContextVar[str]] = ContextVar("label", default="")
"""What this thread is at, where several builds share a terminal."""


@contextmanager
def labelled(label: str) -> Iterator[None]:
    """Begin each line and bar of this thread with `[label]`; tqdm gives each bar a line."""
    token = _LABEL.set(f"[{label}] ")
    try:
        yield
    finally:
        _LABEL.reset(token)


class Progress:
    """A bar over `total` bytes (None where unknown); silent where stderr is no terminal.

    Safe to advance from several threads. Use as a context manager.
    """

    def __init__(self, label: str, total: int | None) -> None:
        self._lock = threading.Lock()
        # disable=None is tqdm's own rule for "only on a terminal".
        self._bar: tqdm[Any] = tqdm(
            total=total,
            desc=f"{_LABEL.get()}{label}",
            unit="B",
            unit_scale=True,
            unit_divisor=1000,
            disable=None,
            file=sys.stderr,
            leave=False,
            dynamic_ncols=True,
        )

    def advance(self, count: int) -> None:
        """Add `count` bytes to what is done; negative where a broken download starts again."""
        with self._lock:  # tqdm adds without one
            self._bar.update(count)

    def reading(self, stream: IO[bytes]) -> IO[bytes]:
        """Return `stream` as one that tells how many of its bytes were read."""
        return cast("IO[bytes]", CallbackIOWrapper(self.advance, stream, "read"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()


def say(message: str) -> None:
    """Tell the person at the terminal something; stdout is kept for results."""
    tqdm.write("\n".join(f"{_LABEL.get()}{line}" for line in message.split("\n")), file=sys.stderr)


def tell_copied(folder: Path, size: int) -> None:
    """Tell that `folder` takes `size` bytes (0: say nothing) that hard links would have saved."""
    if size:
        say(f"no hard links in {folder}: copied {size / 1e6:,.0f} MB")


@contextmanager
def waiting(message: str) -> Iterator[None]:
    """Say what is begun and, on a terminal, for how long: how far it is cannot be known."""
    say(message)
    ended = threading.Event()
    with tqdm(
        bar_format=f"{_LABEL.get()}{{elapsed}}",
        disable=None,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
    ) as clock:

        def tick() -> None:
            while not clock.disable and not ended.wait(1):
                clock.refresh()

        ticking = threading.Thread(target=tick, daemon=True)
        ticking.start()
        try:
            yield
        finally:
            ended.set()
            ticking.join()
