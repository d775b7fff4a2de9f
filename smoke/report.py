"""The report of a run: as data for machines, as a table for people."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from trend import ALPHA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from image import Image
    from suite import Curve, Result
    from trend import Trend

SCHEMA: Final = 1
"""Raised when a field changes its meaning or goes."""

HEADINGS: Final = ("check", "verdict", "value", "seconds")


def all_passed(results: Sequence[Result]) -> bool:
    """Return whether checks ran and none failed; a skip is named and is no failure."""
    return bool(results) and all(result.outcome.verdict != "failed" for result in results)


def curves_of(results: Sequence[Result]) -> dict[str, Curve]:
    """Return the training curves that the checks left, by the kind of labels."""
    return {name: curve for result in results for name, curve in result.outcome.curves.items()}


def report(
    image: Image, results: Sequence[Result], versions: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return the report as JSON has it; `versions` are torch, python, numpy and the device."""
    curves = curves_of(results)
    return {
        "schema": SCHEMA,
        "variant": image.variant,
        **versions,
        "passed": all_passed(results),
        "checks": [_entry(result) for result in results],
        "losses": {name: list(curve.losses) for name, curve in curves.items()},
        "excess": {name: list(curve.excess) for name, curve in curves.items()},
        "trend": {
            "test": "Mann-Kendall, one-sided, on the excess loss",
            "alpha": ALPHA,
            **{name: _trend(curve.trend) for name, curve in curves.items()},
        },
    }


def headline(variant: str, curves: Mapping[str, Curve]) -> str:
    """Return the verdict on the training runs, for the title of their picture."""
    learnable, control = curves["learnable"].trend, curves["random"].trend
    # A p of 1e-47 is no reason to print a confidence of 100 %.
    confidence = f"over {math.floor(min(learnable.confidence, 0.9999) * 10000) / 100} %"
    learns = f"learns (confidence {confidence})" if learnable.falling else "does not learn"
    refused = "learns, too" if control.falling else "does not"
    return f"{variant}: the model {learns}, the control {refused}"


def table(results: Sequence[Result]) -> str:
    """Return one line per check, then why each check that did not pass did not, and the verdict."""
    rows = [HEADINGS, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS) - 1)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[-1].rjust(7)]) for row in rows]
    reasons = _reasons(results)
    return "\n".join([*lines, *([""] if reasons else []), *reasons, "", summary(results)])


def summary(results: Sequence[Result]) -> str:
    """Return the counts by verdict, in one line."""
    verdicts = [result.outcome.verdict for result in results]
    seconds = sum(result.seconds for result in results)
    counts = [f"{verdicts.count(v)} {v}" for v in ("passed", "failed", "skipped") if v in verdicts]
    return f"{', '.join(counts) or 'no check ran'} in {seconds:.1f} s"


def _row(result: Result) -> tuple[str, str, str, str]:
    """Return a check's cells."""
    return (result.id, result.outcome.verdict, result.outcome.value, f"{result.seconds:.2f}")


def _reasons(results: Sequence[Result]) -> list[str]:
    """Return the details, each once, with the checks that it stands for."""
    names: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.outcome.detail:
            names.setdefault((result.outcome.verdict, result.outcome.detail), []).append(result.id)
    return [f"{verdict} {', '.join(ids)}: {why}" for (verdict, why), ids in names.items()]


def _entry(result: Result) -> dict[str, Any]:
    """Return a check's entry in the report."""
    outcome = result.outcome
    return {
        "id": result.id,
        "verdict": outcome.verdict,
        "value": outcome.value,
        "detail": outcome.detail,
        "seconds": round(result.seconds, 3),
    }


def _trend(trend: Trend) -> dict[str, Any]:
    """Return a trend's entry in the report."""
    return asdict(trend) | {"confidence": trend.confidence, "falling": trend.falling}
