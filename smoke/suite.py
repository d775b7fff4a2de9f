"""The suite: a registry of checks, and the runner that turns each into a result.

To add a check, write a function in a file `check_<subject>.py` beside this one:

    @check("python-version")
    def python_version(image: Image) -> Outcome: ...

It returns what `passed`, `failed` or `skipped` gives. What it raises is a failed result, so one
broken check hides no other.
"""

from __future__ import annotations

import importlib
import time
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from image import Image
    from trend import Trend

Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a training run leaves for the report: losses by epoch, the tested series, its trend."""

    losses: tuple[float, ...]
    excess: tuple[float, ...]
    trend: Trend


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check found: `value` is what it measured, `detail` says why it did not pass."""

    verdict: Verdict
    value: str
    detail: str = ""
    curves: Mapping[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of the check `id`, and the seconds it took."""

    id: str
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """A registered check: `applies` says for which images it has anything to ask."""

    id: str
    function: Callable[[Image], Outcome]
    applies: Callable[[Image], bool]


REGISTRY: list[Check] = []


def passed(value: str, detail: str = "", curves: Mapping[str, Curve] | None = None) -> Outcome:
    """Return the outcome of a check that holds."""
    return Outcome(verdict="passed", value=value, detail=detail, curves=curves or {})


def failed(value: str, detail: str, curves: Mapping[str, Curve] | None = None) -> Outcome:
    """Return the outcome of a check that does not hold, and why."""
    return Outcome(verdict="failed", value=value, detail=detail, curves=curves or {})


def skipped(value: str, detail: str) -> Outcome:
    """Return the outcome of a check that this host cannot answer, and what it lacks."""
    return Outcome(verdict="skipped", value=value, detail=detail)


def check(
    name: str, *, applies: Callable[[Image], bool] = lambda _: True
) -> Callable[[Callable[[Image], Outcome]], Callable[[Image], Outcome]]:
    """Register the decorated function as the check `name`; two of one name raise `ValueError`."""

    def register(function: Callable[[Image], Outcome]) -> Callable[[Image], Outcome]:
        if any(name == other.id for other in REGISTRY):
            message = f"two checks are named `{name}`"
            raise ValueError(message)
        REGISTRY.append(Check(id=name, function=function, applies=applies))
        return function

    return register


def load_checks(folder: Path) -> list[Result]:
    """Import each `check_*.py` of `folder`; return a failed result for each that cannot be."""
    # Sorted, because a folder lists its files in no particular order.
    names = sorted(path.stem for path in folder.glob("check_*.py"))
    results = [timed(name, partial(_import, name)) for name in names]
    return [result for result in results if result.outcome.verdict == "failed"]


def _import(name: str) -> Outcome:
    """Import the module `name`, which registers its checks."""
    importlib.import_module(name)
    return passed("imported")


def run_checks(image: Image, announce: Callable[[str], None]) -> Iterator[Result]:
    """Run the registered checks that apply to `image`; `announce` hears the id of each first."""
    for entry in REGISTRY:
        if not entry.applies(image):
            continue
        announce(entry.id)
        yield timed(entry.id, partial(entry.function, image))


def timed(name: str, function: Callable[[], Outcome]) -> Result:
    """Return the result of `function` under the id `name`; whatever it raises is a failure."""
    started = time.perf_counter()
    try:
        outcome = function()
    except Exception as error:  # noqa: BLE001 - a crash is a verdict here
        outcome = failed("crashed", _describe(error))
    return Result(id=name, outcome=outcome, seconds=time.perf_counter() - started)


def _describe(error: Exception) -> str:
    """Return the error in one line, with the file and line that raised it."""
    lines = str(error).strip().splitlines() or ["no message"]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {lines[0]} ({PurePath(frame.filename).name}:{frame.lineno})"
