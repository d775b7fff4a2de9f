"""What commands print when they are done: tables for people, JSON for machines."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING

from torchkiln.pipeline import as_json as build_as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torchkiln.fetch import FetchReport
    from torchkiln.pipeline import BuildReport


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


def built(report: BuildReport) -> str:
    """Return the image's name, digest, layers and where the time went."""
    image = report.image
    rows = [
        (layer.name, megabytes(layer.size), megabytes(layer.unpacked)) for layer in image.layers
    ]
    rows.append(("total", megabytes(image.size), megabytes(image.unpacked)))
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    lines = [f"{image.reference}  sha256:{image.digest}", ""]
    lines += [*table(("layer", "compressed", "unpacked"), rows), "", f"time: {times}"]
    if tested := report.smoke:
        checks = tested.document["checks"]
        passed = sum(entry["verdict"] == "passed" for entry in checks)
        skipped = f", skipped: {', '.join(tested.skipped)}" if tested.skipped else ""
        earlier = "" if tested.fresh else " in an earlier run"
        lines.append(f"smoke: {passed} checks passed{earlier}{skipped}")
        lines.append(f"loss curve: {tested.folder / 'loss.png'}")
    lines += [f"layers: {report.folder / 'layers.svg'}", f"layout: {image.layout}"]
    return "\n".join(lines)


def as_json(report: BuildReport) -> str:
    """Return the build as one JSON object."""
    return json.dumps(build_as_json(report), indent=2)


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
