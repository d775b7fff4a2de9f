"""Run the checks, none of which can crash or stop the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torchkiln.doctor.apart import run_apart
from torchkiln.doctor.checks import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torchkiln.doctor.apart import Done
    from torchkiln.doctor.checks import Check
    from torchkiln.doctor.facts import Facts


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check came to, and the seconds that it took."""

    check: Check
    outcome: Outcome
    seconds: float


def run_checks(
    checks: Sequence[Check], facts: Facts, announce: Callable[[str], None]
) -> list[Finding]:
    """Return what each of `checks` finds, in their order; `announce` hears the id of each."""
    functions = {one.id: partial(one.function, facts) for one in checks}
    done = run_apart(functions, facts.subject.patience, announce)
    return [
        Finding(check=one, outcome=_outcome(done[one.id]), seconds=done[one.id].seconds)
        for one in checks
    ]


def _outcome(done: Done) -> Outcome:
    if isinstance(done.value, Outcome):
        return done.value
    cause = "this check itself failed; it says nothing of what it looks at"
    evidence = done.failure or f"it answered with {type(done.value).__name__}"
    return Outcome(verdict="crashed", evidence=evidence, cause=cause)
