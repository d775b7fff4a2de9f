"""What was measured, as `benchmarks/results.json` keeps it: every run, medians and ratios."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.measure import Cost
from torchkiln.progress import say

_FIELDS: Final = ("wall", "cpu", "memory")


@dataclass(kw_only=True)
class Results:
    """All that was measured, by variant, arm and scenario; `images` by variant and arm."""

    costs: dict[tuple[str, str, str], list[Cost]] = field(default_factory=dict)
    images: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def add(self, variant: str, arm: str, scenario: str, cost: Cost) -> None:
        """Keep one run."""
        self.costs.setdefault((variant, arm, scenario), []).append(cost)
        say(f"{variant} {arm} {scenario}: {cost.wall:.1f} s, {cost.cpu:.1f} CPU s")


def read(path: Path) -> Results:
    """Return the results of an earlier run."""
    body = json.loads(path.read_text(encoding="utf-8"))
    results = Results()
    for one in body["costs"]:
        key = one["variant"], one["arm"], one["scenario"]
        results.costs[key] = [Cost(**cost) for cost in one["runs"]]
    for image in body["images"]:
        results.images[image.pop("variant"), image.pop("arm")] = image
    return results


def document(results: Results, docker: str) -> str:
    """Return the results as JSON, with medians, and ratios of wall time to kiln's."""
    medians = {
        key: {name: round(median(asdict(cost)[name] for cost in costs), 2) for name in _FIELDS}
        for key, costs in results.costs.items()
    }
    body = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": _machine(),
        "docker": docker,
        "costs": [
            {
                "variant": variant,
                "arm": arm,
                "scenario": scenario,
                "median": medians[variant, arm, scenario],
                "ratio": _ratio(medians, (variant, arm, scenario)),
                "runs": [asdict(cost) for cost in costs],
            }
            for (variant, arm, scenario), costs in results.costs.items()
        ],
        "images": [
            {"variant": variant, "arm": arm, **image}
            for (variant, arm), image in results.images.items()
        ],
    }
    return json.dumps(body, indent=1) + "\n"


def _ratio(
    medians: dict[tuple[str, str, str], dict[str, float]], key: tuple[str, str, str]
) -> float | None:
    """Return how many times kiln's wall time this one is; None where kiln was not measured."""
    kiln = medians.get((key[0], "kiln", key[2]))
    return round(medians[key]["wall"] / kiln["wall"], 2) if kiln else None


def _machine() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": names[0] if names else platform.machine(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
    }
