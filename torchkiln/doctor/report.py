"""What the doctor says: the worst first for people, one JSON object for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, get_args

from torchkiln.doctor.checks import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.doctor.guard import Finding

SCHEMA_VERSION: Final = 1
"""Raised when a reader of an earlier version would misread the JSON."""

PROBLEM: Final = 1
FAILED: Final = 2
_ORDER: Final = get_args(Verdict)


def diagnosis(findings: Sequence[Finding]) -> list[Finding]:
    """Return `findings`, the worst and the nearest to the root first."""
    return sorted(
        findings, key=lambda one: (_ORDER.index(one.outcome.verdict), one.check.rank, one.check.id)
    )


def exit_code(findings: Sequence[Finding], *, strict: bool = False) -> int:
    """Return 1 where there is a problem (or with `strict` a warning), 2 where a check crashed."""
    verdicts = {one.outcome.verdict for one in findings}
    if "problem" in verdicts or (strict and "warning" in verdicts):
        return PROBLEM
    return FAILED if "crashed" in verdicts else 0


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings for machines."""
    entries = [
        {"id": one.check.id, "area": one.check.area, "seconds": round(one.seconds, 3)}
        | asdict(one.outcome)
        for one in diagnosis(findings)
    ]
    return {"schema_version": SCHEMA_VERSION, "findings": entries}


def text(findings: Sequence[Finding], *, verbose: bool = False) -> str:
    """Return the findings for people: what is wrong in full, the rest in a line or not at all."""
    lines: list[str] = []
    for one in diagnosis(findings):
        found = one.outcome
        if found.verdict in {"ok", "skipped"} and not verbose:
            continue
        lines.append(f"{found.verdict:<8} {one.check.id}: {found.evidence}")
        lines += [f"{'':8} {part}" for part in (found.cause, found.link) if part]
        lines += [f"{'':8} mend:  {found.remedy}"] if found.remedy else []
    counts = dict.fromkeys(_ORDER, 0)
    for one in findings:
        counts[one.outcome.verdict] += 1
    lines += ["", ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)]
    return "\n".join(lines)
