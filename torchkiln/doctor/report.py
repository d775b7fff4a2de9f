"""What the doctor says: the worst first for people, one JSON object for machines.

The JSON is as `report.schema.json` says, and safe to paste into a bug report.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, get_args

from torchkiln.doctor.checks import AREAS, Verdict
from torchkiln.doctor.distribution import os_release
from torchkiln.doctor.privacy import private, without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.doctor.checks import Check
    from torchkiln.doctor.facts import Facts
    from torchkiln.doctor.guard import Finding

SCHEMA_VERSION: Final = 1
"""Raised when a reader of an earlier version would misread the JSON."""

PROBLEM: Final = 1
FAILED: Final = 2
_ORDER: Final[tuple[Verdict, ...]] = get_args(Verdict)
_WELL: Final = {"ok", "skipped"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found of what: findings, the worst and the nearest to the root first."""

    facts: Facts
    findings: tuple[Finding, ...]
    strict: bool

    @property
    def exit_code(self) -> int:
        """Return 1 where there is a problem (if strict, a warning), 2 where a check crashed."""
        verdicts = {one.outcome.verdict for one in self.findings}
        if "problem" in verdicts or (self.strict and "warning" in verdicts):
            return PROBLEM
        return FAILED if "crashed" in verdicts else 0


def report(facts: Facts, findings: Sequence[Finding], *, strict: bool = False) -> Report:
    """Return the report on `findings`, with nothing private in it."""
    hidden = private(facts.subject.environ)
    clean = (replace(one, outcome=without(one.outcome, hidden)) for one in findings)
    return Report(facts=facts, findings=tuple(diagnosis(list(clean))), strict=strict)


def diagnosis(findings: Sequence[Finding]) -> list[Finding]:
    """Return `findings`, the worst and the nearest to the root first."""
    return sorted(
        findings, key=lambda one: (_ORDER.index(one.outcome.verdict), one.check.rank, one.check.id)
    )


def as_json(made: Report) -> dict[str, Any]:
    """Return the report for machines."""
    return {
        "schema_version": SCHEMA_VERSION,
        "exit_code": made.exit_code,
        "subject": _subject(made.facts),
        "counts": _counts(made),
        "findings": [
            {"id": one.check.id, "area": one.check.area, "seconds": round(one.seconds, 3)}
            | asdict(one.outcome)
            for one in made.findings
        ],
    }


def _subject(facts: Facts) -> dict[str, Any]:
    environment, driver = facts.environment, facts.machine.driver
    torch = environment.find("torch") if environment else None
    return {
        "container": facts.container,
        "driver": driver.text if driver else None,
        "gpus": [str(gpu) for gpu in facts.machine.gpus],
        "system": os_release(facts.subject.root).get("PRETTY_NAME"),
        "python": ".".join(map(str, environment.version)) if environment else None,
        "torch": torch.version if torch else None,
    }


def _counts(made: Report) -> dict[str, int]:
    counted = Counter(one.outcome.verdict for one in made.findings)
    return {verdict: counted[verdict] for verdict in _ORDER}


def text(made: Report, *, verbose: bool = False) -> str:
    """Return the report for people: what is wrong in full, the rest only if they ask for it."""
    wrong = [one for one in made.findings if one.outcome.verdict not in _WELL]
    well = sorted(
        (one for one in made.findings if one.outcome.verdict in _WELL),
        key=lambda one: (AREAS.index(one.check.area), one.check.rank, one.check.id),
    )
    lines = [line for one in wrong for line in (*_in_full(one), "")]
    if verbose:
        lines += [*(_in_a_line(one) for one in well), ""]
    return "\n".join([*lines, _summary(made)])


def _in_full(one: Finding) -> list[str]:
    found = one.outcome
    lines = [f"{found.verdict}: {one.check.id} ({one.check.area})", f"  {found.evidence}"]
    lines += [f"  why:  {found.cause}"] if found.cause else []
    lines += [f"  see:  {found.link}"] if found.link else []
    return lines + ([f"  mend: {found.remedy}"] if found.remedy else [])


def _in_a_line(one: Finding) -> str:
    return f"{one.outcome.verdict:<7}  {one.check.id:<22}  {one.outcome.evidence}"


def _summary(made: Report) -> str:
    counts = _counts(made)
    named = {"problem": "problem", "crashed": "failed check", "warning": "warning"}
    wrong = [
        f"{counts[verdict]} {word}{'s' if counts[verdict] > 1 else ''}"
        for verdict, word in named.items()
        if counts[verdict]
    ]
    looked = f"{len(made.findings)} checks, {counts['skipped']} skipped"
    return f"{', '.join(wrong) or 'no problems found'} ({looked})"


def listed(checks: Sequence[Check]) -> list[tuple[str, str, str]]:
    """Return a row for each check: its id, its area, what it looks for."""
    return [(one.id, one.area, (one.function.__doc__ or "").partition("\n")[0]) for one in checks]
