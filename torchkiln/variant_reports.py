"""What commands on the list of variants print: which there are, which to take, what CI needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchkiln.reports import megabytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.ci import Matrix
    from torchkiln.recommend import Recommendation, Verdict
    from torchkiln.status import VariantStatus
    from torchkiln.wheel_facts import Fact


def listed(found: Sequence[VariantStatus]) -> str:
    """Return the table of variants, a line on each that is at its end, and on a drifted base."""
    heads = ("variant", "torch", "CUDA", "Python", "driver", "state", "size", "digest", "GPUs")
    rows = [
        (
            one.variant.id,
            one.variant.torch,
            one.variant.cuda or "",
            one.python,
            one.driver and f">={one.driver}",
            f"{one.state}, drifted" if one.drifted else one.state,
            megabytes(one.image.size) if one.image else "",
            one.image.digest[:12] if one.image else "",
            ", ".join(one.covers),
        )
        for one in found
    ]
    ends = [
        f"{one.variant.id}: no newer torch since {one.variant.ended},"
        f" {one.variant.replacement} replaces it"
        for one in found
        if one.variant.ended
    ]
    drifts = {one.drifted for one in found if one.drifted}
    ends += [
        f"the base has drifted from its lock: {', '.join(map(str, drifted))}; ./kiln lock --base"
        for drifted in sorted(drifts)
    ]
    return "\n".join([*_left(heads, rows), "", *ends])


def recommended(found: Recommendation) -> str:
    """Return the machine, the variant with the command that builds it, and the other variants."""
    machine = found.machine
    driver = f"driver {machine.driver.text}" if machine.driver else "no driver"
    variant = found.variant
    lines = [
        f"machine: {driver}; {', '.join(map(str, machine.gpus)) or 'no GPU'}",
        f"variant: {variant.id} (torch {variant.torch}): ./kiln build {variant.flag}",
        *([f"note: {found.word}"] if found.word else []),
        "",
    ]
    rows = [(one.variant.id, one.variant.torch, _verdict(one, found)) for one in found.verdicts]
    return "\n".join([*lines, *_left(("variant", "torch", "verdict"), rows)])


def _verdict(one: Verdict, found: Recommendation) -> str:
    if one.reasons:
        return "out: " + "; ".join(one.reasons)
    if not one.locked:
        return f"out: not locked, ./kiln lock {one.variant.flag}"
    return "the one" if one.variant == found.variant else "runs too, with an older torch"


def matrix(found: Matrix) -> str:
    """Return the CI matrix, a row for each image, by stage."""
    rows = [
        (stage, row.id, row.runner, f"{row.disk / 1e9:.0f} GB", row.driver)
        for stage, part in (("base", found.base), ("variants", found.variants))
        for row in part
    ]
    return "\n".join(_left(("stage", "image", "runner", "disk", "driver"), rows))


def measured(variant: str, facts: Sequence[Fact]) -> str:
    """Return what was written down and what was measured of one variant's torch."""
    rows = [(one.name, one.written, one.measured) for one in facts]
    return "\n".join([variant, *_left(("fact", "written", "measured"), rows), ""])


def _left(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose columns all start at the left."""
    everything = [headings, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(headings))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in everything
    ]
