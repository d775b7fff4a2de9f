"""What commands print when they are done: tables for people, JSON for machines."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any, Final

from torchkiln.engine.commands import EngineBuildReport
from torchkiln.engine.commands import as_json as engine_build_as_json
from torchkiln.pipeline import as_json as build_as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torchkiln.build_all import Outcome
    from torchkiln.fetch import FetchReport
    from torchkiln.image_diff import ImageDiff, PackageDifference
    from torchkiln.pipeline import BuildReport
    from torchkiln.smoke import SmokeReport


_SHOWN: Final = 40  # differences of paths that people are shown


def megabytes(size: int) -> str:
    """Return a number of bytes as people read it: `408.9 MB`."""
    return f"{size / 1e6:,.1f} MB"


def fetched(report: FetchReport) -> str:
    """Return one line on what was fetched."""
    rate = report.bytes_fetched / report.seconds if report.seconds else 0
    return (
        f"fetched {report.files} files: {megabytes(report.bytes_fetched)}"
        f" in {report.seconds:.1f} s, {megabytes(int(rate))}/s"
    )


def built(report: BuildReport | EngineBuildReport) -> str:
    """Return the image's name, digest, layers and where the time went."""
    if isinstance(report, EngineBuildReport):
        return _built_by_engine(report)
    image = report.image
    rows = [
        (layer.name, megabytes(layer.size), megabytes(layer.unpacked)) for layer in image.layers
    ]
    rows.append(("total", megabytes(image.size), megabytes(image.unpacked)))
    lines = [f"{image.reference}  sha256:{image.digest}", ""]
    lines += [*table(("layer", "compressed", "unpacked"), rows), "", _times(report.seconds)]
    lines += smoke_lines(report.smoke)
    lines += [f"layers: {report.folder / 'layers.svg'}", f"layout: {image.layout}"]
    return "\n".join(lines)


def _built_by_engine(report: EngineBuildReport) -> str:
    image = report.image
    lines = [f"{image.reference}  {image.id}", ""]
    size = f"{megabytes(image.size)} as it counts them"
    lines.append(f"in {report.engine}: {len(image.diff_ids)} layers, {size}")
    return "\n".join([*lines, _times(report.seconds), *smoke_lines(report.smoke)])


def _times(seconds: dict[str, float]) -> str:
    return "time: " + ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())


def smoke_lines(tested: SmokeReport | None) -> list[str]:
    """Return what is told of the suite's verdict, nothing where it was not run."""
    if tested is None:
        return []
    checks = tested.document["checks"]
    passed = sum(entry["verdict"] == "passed" for entry in checks)
    skipped = f", skipped: {', '.join(tested.skipped)}" if tested.skipped else ""
    earlier = "" if tested.fresh else " in an earlier run"
    return [
        f"smoke: {passed} checks passed{earlier}{skipped}",
        f"loss curve: {tested.folder / 'loss.png'}",
    ]


def as_json(report: BuildReport | EngineBuildReport) -> str:
    """Return the build as one JSON object."""
    return json.dumps(_document(report), indent=2)


def _document(report: BuildReport | EngineBuildReport) -> dict[str, Any]:
    if isinstance(report, EngineBuildReport):
        return engine_build_as_json(report)
    return build_as_json(report)


def built_all(outcomes: Sequence[Outcome]) -> str:
    """Return a row for each variant: what became of it, its digest and size, or why it failed."""
    rows = [(one.variant.id, *_outcome(one), f"{one.seconds:.0f} s") for one in outcomes]
    lines = table(("variant", "result", "digest", "size", "time"), rows)
    failed = sum(one.error is not None for one in outcomes)
    return "\n".join([*lines, "", f"{len(outcomes) - failed} built, {failed} failed"])


def _outcome(one: Outcome) -> tuple[str, str, str]:
    if one.error:
        return f"failed ({one.error.exit_code})", "", ""
    if isinstance(one.report, EngineBuildReport):
        image = one.report.image
        return "built", image.id[:19], megabytes(image.size)
    if one.report is None:
        return "", "", ""
    tested = "trains" if one.report.smoke else "built"
    tested += ", drifted" if one.report.drifted else ""
    return tested, f"sha256:{one.report.image.digest[:12]}", megabytes(one.report.image.size)


def built_all_as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return what `build --all --json` prints: each build's own JSON, or its error."""
    return [
        {
            "variant": one.variant.id,
            "seconds": round(one.seconds, 1),
            "build": one.report and _document(one.report),
            "error": one.error
            and {
                "exit_code": one.error.exit_code,
                "what": one.error.what,
                "why": one.error.why,
                "hint": one.error.hint,
            },
        }
        for one in outcomes
    ]


def compared(diff: ImageDiff, first: str, second: str) -> str:
    """Return where two images differ, for people: the first 40 paths, and all of the rest."""
    lines = [f"--- {first}", f"+++ {second}"]
    shown = (*diff.config, *diff.files[:_SHOWN])
    lines += [f"{one.path}: {one.field}: {one.first} -> {one.second}" for one in shown]
    if len(diff.files) > _SHOWN:
        lines.append(f"and {len(diff.files) - _SHOWN} more paths: see --json")
    rows = [_package_row(one) for one in diff.packages]
    if rows:
        heads = ("package", "version", "size", "version", "size")
        lines += ["", *table(heads, rows)]
    if diff.same:
        return f"the same: {diff.all_paths} paths, {diff.all_packages} packages"
    return "\n".join(lines)


def _package_row(one: PackageDifference) -> tuple[str, ...]:
    cells = [
        (package.version, megabytes(package.size)) if package else ("-", "-")
        for package in (one.first, one.second)
    ]
    return (one.name, *cells[0], *cells[1])


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: first column to the left, the others to the right."""
    everything = [headings, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(headings))]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in everything
    ]


def write_file(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a large file beside its name first, so that a broken one never has the name."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            write(stream)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
