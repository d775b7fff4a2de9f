"""What the commands on environments print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchkiln.environment.files import activation
from torchkiln.reports import smoke_lines, table

if TYPE_CHECKING:
    from torchkiln.environment.make import EnvReport
    from torchkiln.environment.mend import CheckReport, RepairReport


def made(report: EnvReport, kernel: str = "") -> str:
    """Return what the environment is, what the suite said, and how to activate it.

    `kernel` is the name by which the user's Jupyter lists it.
    """
    env, record = report.env, report.record
    state = "made" if report.made else "is there"
    covered = f", for {record.platform}, which the lock does not cover" if record.platform else ""
    count = len(record.pins)
    lines = [f"{env.shown} {state}: `{record.variant}`, {count} packages{covered}"]
    lines += smoke_lines(report.smoke)
    width = max(map(len, activation(env.root)))
    lines += ["", "activate it with"]
    lines += [f"  {shell:<{width}}  {line}" for shell, line in activation(env.root).items()]
    lines += ["", f"your Jupyter lists it as {kernel}"] if kernel else []
    return "\n".join(lines)


def checked(report: CheckReport) -> str:
    """Return what differs, and what is there beside the lock."""
    found = report.comparison
    lines = []
    if found.differences:
        rows = [(one.name, one.found, one.locked) for one in found.differences]
        lines = [*table(("what", "found", "locked"), rows), ""]
    if found.foreign:
        names = ", ".join(f"{name} {version}" for name, version in found.foreign.items())
        lines.append(f"beside the lock: {names}")
    same = f"{report.env.shown} is as the lock of `{report.variant}` says"
    differs = f"{report.env.shown} differs from the lock of `{report.variant}`"
    state = differs if found.differences else same
    return "\n".join([*lines, f"{state} ({found.files:,} files compared)"])


def checked_as_json(report: CheckReport) -> dict[str, Any]:
    """Return the comparison for machines."""
    return {
        "path": str(report.env.root),
        "variant": report.variant,
        "differences": [
            {"name": one.name, "found": one.found, "locked": one.locked}
            for one in report.comparison.differences
        ],
        "foreign": report.comparison.foreign,
        "files": report.comparison.files,
    }


def repaired(report: RepairReport) -> str:
    """Return what was mended."""
    what = ", ".join(report.mended) or "nothing differed"
    return "\n".join([f"mended in {report.env.shown}: {what}", *smoke_lines(report.smoke)])
