"""What `benchmarks/results.json` says, as tables for two READMEs and as pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.chart import Panel, chart
from benchmarks.peers import PEERS
from torchkiln.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

RESULTS: Final = "benchmarks/results.json"
PICTURES: Final = ".github/pictures"
_BEGIN, _END = "<!-- ./kiln bench writes from here -->\n", "<!-- to here -->"
_TITLES: Final = {
    "kiln": "`./kiln build`",
    "dockerfile": "its Dockerfile, by BuildKit",
    **{peer.id: peer.title for peer in PEERS},
    "limit": "inflate, hash and gzip alone",
}
_SCENARIOS: Final = {
    "cold": "first build",
    "nothing": "nothing changed",
    "small": "a small package changed",
    "torch": "torch changed",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One builder of one variant: median costs by scenario, and its image's numbers, if any."""

    title: str
    medians: dict[str, dict[str, float]]
    image: dict[str, Any] | None

    def seconds(self, scenario: str) -> float | None:
        """Return the median wall time of a scenario, None if it was not measured."""
        cost = self.medians.get(scenario)
        return cost["wall"] if cost else None


def rows(results: dict[str, Any], variant: str) -> list[Row]:
    """Return the builders of a variant that were measured, kiln first and the limit last."""
    medians: dict[str, dict[str, dict[str, float]]] = {}
    for cost in results["costs"]:
        if cost["variant"] == variant:
            medians.setdefault(cost["arm"], {})[cost["scenario"]] = cost["median"]
    images = {one["arm"]: one for one in results["images"] if one["variant"] == variant}
    return [
        Row(title=title, medians=medians[arm], image=images.get(arm))
        for arm, title in _TITLES.items()
        if arm in medians
    ]


def variants(results: dict[str, Any]) -> list[str]:
    """Return the ids of the variants that were measured, in order."""
    return list(dict.fromkeys(cost["variant"] for cost in results["costs"]))


def summary(results: dict[str, Any]) -> str:
    """Return the table of the project's README."""
    shown = ("cold", "nothing", "small")
    names = [_SCENARIOS[name] for name in shown]
    head = ("image", "built by", *names, "size", "to pull after that change")
    lines = [_line(head), _line("---" for _ in head)]
    for variant in variants(results):
        lines += [
            _line(
                (
                    f"`{variant}`",
                    row.title,
                    *(_seconds(row, name) for name in shown),
                    _bytes(row.image, "compressed"),
                    _pull(row.image, "small"),
                )
            )
            for row in rows(results, variant)
        ]
    return "\n".join(lines) + "\n"


def tables(results: dict[str, Any]) -> str:
    """Return all that was measured, a table for each variant, with the machine and the date."""
    machine = results["machine"]
    where = (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory'] / 2**30:.0f} GiB"
    )
    parts = [f"{results['date']}, {where}, Docker {results['docker']}.\n"]
    for variant in variants(results):
        head = ("built by", *_SCENARIOS.values(), "CPU", "memory", "image", "unpacked", "layers")
        head += ("pull: small", "pull: torch")
        lines = [f"### {variant}\n", _line(head), _line("---" for _ in head)]
        lines += [_full(row) for row in rows(results, variant)]
        parts.append("\n".join([*lines, f"\nRounds: {_rounds(results, variant)}.\n"]))
    left_out = [f"- {peer.title}: {peer.left_out}." for peer in PEERS if peer.left_out]
    return "\n".join([*parts, "Left out of a recipe, or put in another's place:\n", *left_out, ""])


def pictures(results: dict[str, Any]) -> dict[str, str]:
    """Return an SVG for each variant, by file name."""
    found = {}
    for variant in variants(results):
        measured = rows(results, variant)
        panels = [
            Panel(title=f"{_SCENARIOS[name]}, s", values=[row.seconds(name) for row in measured])
            for name in ("cold", "small")
        ]
        pulls = [row.image["pull"]["small"] / 1e6 if row.image else None for row in measured]
        panels.append(Panel(title="to pull after that, MB", values=pulls))
        titles = [row.title.replace("`", "") for row in measured]
        found[f"bench-{variant}.svg"] = chart(f"the {variant} image", titles, panels)
    return found


def read(root: Path) -> dict[str, Any]:
    """Return what `bench` wrote last."""
    body: dict[str, Any] = json.loads((root / RESULTS).read_text(encoding="utf-8"))
    return body


def write(root: Path) -> None:
    """Write the tables into the READMEs, between their marks, and the pictures."""
    for path, text in documents(root).items():
        write_atomic(root / path, text)


def documents(root: Path) -> dict[str, str]:
    """Return what `write` writes, by path: from the results and from what surrounds the tables."""
    results = read(root)
    found = {
        name: _between(root / name, text)
        for name, text in (
            ("README.md", summary(results)),
            ("benchmarks/README.md", tables(results)),
        )
    }
    return found | {f"{PICTURES}/{name}": svg for name, svg in pictures(results).items()}


def _between(path: Path, text: str) -> str:
    before, _, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    return f"{before}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}"


def _full(row: Row) -> str:
    cold = row.medians["cold"]
    return _line(
        (
            row.title,
            *(_seconds(row, name) for name in _SCENARIOS),
            f"{cold['cpu']:.0f} s",
            _megabytes(cold["memory"]),
            _bytes(row.image, "compressed"),
            _bytes(row.image, "unpacked"),
            str(row.image["layers"]) if row.image else "",
            _pull(row.image, "small"),
            _pull(row.image, "torch"),
        )
    )


def _rounds(results: dict[str, Any], variant: str) -> str:
    counts: dict[int, list[str]] = {}
    for cost in results["costs"]:
        if cost["variant"] == variant and cost["scenario"] == "cold":
            counts.setdefault(len(cost["runs"]), []).append(cost["arm"])
    return "; ".join(f"{count} of {', '.join(arms)}" for count, arms in counts.items())


def _line(cells: Any) -> str:  # noqa: ANN401 - any strings that can be walked
    return f"| {' | '.join(cells)} |"


def _seconds(row: Row, scenario: str) -> str:
    seconds = row.seconds(scenario)
    return "" if seconds is None else f"{seconds:.1f} s"


def _bytes(image: dict[str, Any] | None, name: str) -> str:
    return _megabytes(image[name]) if image else ""


def _pull(image: dict[str, Any] | None, scenario: str) -> str:
    return _megabytes(image["pull"][scenario]) if image else ""


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e7 else f"{size / 1e6:,.0f} MB"  # noqa: PLR2004
