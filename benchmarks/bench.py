"""Run the benchmark: every arm through the same four builds, round by round."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.arms import Bench, arms
from benchmarks.measure import Cost, measured
from benchmarks.peers import EXTRAS
from benchmarks.wheelset import wheel_sets
from torchkiln import pipeline
from torchkiln.engine.connection import connect
from torchkiln.errors import EngineError
from torchkiln.files import write_atomic
from torchkiln.progress import say
from torchkiln.store import remove_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.arms import Arm
    from benchmarks.sizes import LayerSize
    from torchkiln.catalog import Variant
    from torchkiln.engine.connection import Engine
    from torchkiln.pipeline import Project

SCENARIOS: Final = ("cold", "nothing", "small", "torch")
"""Nothing was built before; again; one light wheel was rebuilt; torch's wheel was rebuilt."""

_BASE: Final = "debian:bookworm-slim"
_LIMIT: Final = "limit"


@dataclass(kw_only=True)
class Results:
    """All that was measured, by variant, arm and scenario; `images` by variant and arm."""

    costs: dict[tuple[str, str, str], list[Cost]] = field(default_factory=dict)
    images: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def add(self, variant: str, arm: str, scenario: str, cost: Cost) -> None:
        """Keep one run."""
        self.costs.setdefault((variant, arm, scenario), []).append(cost)
        say(f"{variant} {arm} {scenario}: {cost.wall:.1f} s, {cost.cpu:.1f} CPU s")


def run(
    project: Project,
    variants: Sequence[Variant],
    *,
    rounds: int,
    only: Sequence[str],
    add: bool,
) -> Path:
    """Measure and write `benchmarks/results.json`; return its path.

    `only` names arms, all where it is empty; with `add` the runs come to those of the file. Nothing
    else may run on the machine meanwhile.
    """
    target = project.root / "benchmarks/results.json"
    results = _read(target) if add else Results()
    with connect("docker", project.environ) as engine:
        _check(engine)
        for number in range(rounds):
            for variant in variants:
                say(f"round {number + 1} of {rounds}: {variant.id}")
                _round(project, variant, engine, only, results)
                write_atomic(target, _document(results, engine))
    return target


def _round(
    project: Project,
    variant: Variant,
    engine: Engine,
    only: Sequence[str],
    results: Results,
) -> None:
    pipeline.fetch_inputs(project, variant)
    work = project.store.root / "bench"
    remove_tree(work)
    work.mkdir(parents=True)
    lock = pipeline.job(project, variant).lock
    bench = Bench(
        project=project.root,
        work=work,
        store=project.store,
        variant=variant,
        engine=engine,
        sets=wheel_sets(lock, project.store, work),
    )
    _measure_limit(bench, results)
    for arm in arms(bench, _extras(work)):
        if not only or arm.id in only:
            _run_arm(arm, bench, results)
    remove_tree(work)


def _run_arm(arm: Arm, bench: Bench, results: Results) -> None:
    variant = bench.variant.id
    first = (variant, arm.id) not in results.images
    if first:  # fills the caches of downloads, and pulls what is to be pulled
        arm.clear()
        arm.build(bench.sets[0])
    arm.clear()
    before: list[LayerSize] = []
    image: dict[str, Any] = {"pull": {}}
    for scenario, wheels in zip(SCENARIOS, (bench.sets[0], *bench.sets), strict=True):
        results.add(variant, arm.id, scenario, arm.build(wheels))
        if not first or scenario == "nothing":
            continue
        layers = arm.layers()
        if scenario == "cold":
            image["compressed"] = sum(layer.compressed for layer in layers)
            image["unpacked"] = sum(layer.unpacked for layer in layers)
            image["layers"] = len(layers)
        else:
            known = {layer.digest for layer in before}
            new = [layer for layer in layers if layer.digest not in known]
            image["pull"][scenario] = sum(layer.compressed for layer in new)
        before = layers
    if first:
        results.images[variant, arm.id] = image
    arm.clear()


def _measure_limit(bench: Bench, results: Results) -> None:
    command = [sys.executable, "-m", "benchmarks.limit", str(bench.project), bench.variant.id]
    environ = {**os.environ, "TORCHKILN_HOME": str(bench.store.root)}
    results.add(bench.variant.id, _LIMIT, "cold", measured(command, environ, bench.project))


def _extras(work: Path) -> Path:
    """Fetch the wheels that recipes install beside the variant's."""
    folder = work / "extras"
    target = ["--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"]
    platforms = ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    subprocess.run([*command, *target, *platforms, *EXTRAS], check=True, capture_output=True)
    return folder


def _check(engine: Engine) -> None:
    """Refuse an engine in which an image's layers cannot be seen as they are sent."""
    if engine.podman or not engine.containerd:
        what = f"the benchmark needs Docker with containerd's image store: {engine.title}"
        hint = 'put {"features": {"containerd-snapshotter": true}} into its daemon.json'
        raise EngineError(what, hint=hint)
    found = subprocess.run(
        engine.command("image", "inspect", _BASE),
        env=engine.environ,
        capture_output=True,
        check=False,
    )
    if found.returncode:
        subprocess.run(engine.command("pull", _BASE), env=engine.environ, check=True)


def _read(path: Path) -> Results:
    """Return the results of an earlier run."""
    body = json.loads(path.read_text(encoding="utf-8"))
    results = Results()
    for one in body["costs"]:
        key = one["variant"], one["arm"], one["scenario"]
        results.costs[key] = [Cost(**cost) for cost in one["runs"]]
    for image in body["images"]:
        results.images[image.pop("variant"), image.pop("arm")] = image
    return results


def _document(results: Results, engine: Engine) -> str:
    """Return the results as JSON, with medians."""
    body = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": _machine(),
        "docker": engine.version,
        "costs": [
            {
                "variant": variant,
                "arm": arm,
                "scenario": scenario,
                "median": {name: median(asdict(cost)[name] for cost in costs) for name in _FIELDS},
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


_FIELDS: Final = ("wall", "cpu", "memory")


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
