"""The checks: a registry, and what each of them may answer.

To add a check, write a function in a file `check_<subject>.py` beside this one:

    @check("shared-memory", area="container", rank=60)
    def shared_memory(facts: Facts) -> Outcome: ...

It returns what `ok`, `warning`, `problem` or `skipped` gives. It looks at `facts` and at what lies
under `facts.subject.root`, and changes nothing. What it raises makes it a crashed check, which
hides no other.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchkiln.doctor.facts import Facts

Verdict = Literal["problem", "crashed", "warning", "skipped", "ok"]
"""From the worst to the best."""

Area = Literal["machine", "container", "environment", "network"]
AREAS: Final = get_args(Area)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check found.

    `evidence` is what it saw: a value, a path, a message. `cause` says in a sentence why that
    breaks PyTorch; `remedy` is one command that mends it; `link` is where the failure is known from
    (`pytorch/pytorch#31285`).
    """

    verdict: Verdict
    evidence: str
    cause: str = ""
    remedy: str = ""
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A registered check. Of two problems, the one of the lower `rank` is nearer to the root.

    A check of the `last` resort sees that something fails and not why: it has nothing to say where
    another one has found a problem.
    """

    id: str
    area: Area
    rank: int
    function: Callable[[Facts], Outcome]
    last: bool = False


REGISTRY: list[Check] = []


def ok(evidence: str) -> Outcome:
    """Return the outcome of a check that found nothing wrong."""
    return Outcome(verdict="ok", evidence=evidence)


def skipped(evidence: str) -> Outcome:
    """Return the outcome of a check that has nothing to ask here, and why."""
    return Outcome(verdict="skipped", evidence=evidence)


def warning(evidence: str, *, cause: str, remedy: str, link: str = "") -> Outcome:
    """Return the outcome of a check that found what may hurt, or hurts some."""
    return Outcome(verdict="warning", evidence=evidence, cause=cause, remedy=remedy, link=link)


def problem(evidence: str, *, cause: str, remedy: str, link: str = "") -> Outcome:
    """Return the outcome of a check that found why PyTorch does not work."""
    return Outcome(verdict="problem", evidence=evidence, cause=cause, remedy=remedy, link=link)


def check(
    name: str, *, area: Area, rank: int, last: bool = False
) -> Callable[[Callable[[Facts], Outcome]], Callable[[Facts], Outcome]]:
    """Register the decorated function as the check `name`; two of one name raise `ValueError`."""

    def register(function: Callable[[Facts], Outcome]) -> Callable[[Facts], Outcome]:
        if any(name == other.id for other in REGISTRY):
            message = f"two checks are named `{name}`"
            raise ValueError(message)
        REGISTRY.append(Check(id=name, area=area, rank=rank, function=function, last=last))
        return function

    return register


def load_checks() -> list[Check]:
    """Import each `check_*.py` of this folder; return all checks, by area and rank.

    A file that cannot be imported is a check that crashes, so that it hides no other.
    """
    for path in sorted(Path(__file__).parent.glob("check_*.py")):
        _load(path.stem)
    return sorted(REGISTRY, key=lambda one: (AREAS.index(one.area), one.rank, one.id))


def _load(module: str) -> None:
    try:
        importlib.import_module(f"torchkiln.doctor.{module}")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this file's alone
        check(module, area="machine", rank=99)(partial(_raise, error))


def _raise(error: Exception, _: Facts) -> Outcome:
    raise error
