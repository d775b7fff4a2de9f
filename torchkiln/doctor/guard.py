"""Run the checks, none of which can crash or stop the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torchkiln.doctor.apart import run_apart
from torchkiln.doctor.checks import Outcome, skipped

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
    return relieved(
        [
            Finding(check=one, outcome=_outcome(done[one.id]), seconds=done[one.id].seconds)
            for one in checks
        ]
    )


def relieved(findings: Sequence[Finding]) -> list[Finding]:
    """Return `findings` without the problems of last resort that another one explains."""
    explained = any(
        one.outcome.verdict == "problem" and not one.check.last and one.check.area != "network"
        for one in findings
    )
    return [
        replace(one, outcome=skipped("another check says why"))
        if explained and one.check.last and one.outcome.verdict == "problem"
        else one
        for one in findings
    ]


def _outcome(done: Done) -> Outcome:
    if isinstance(done.value, Outcome):
        return done.value
    cause = "this check itself failed; it says nothing of what it looks at"
    evidence = done.failure or f"it answered with {type(done.value).__name__}"
    return Outcome(verdict="crashed", evidence=evidence, cause=cause)
