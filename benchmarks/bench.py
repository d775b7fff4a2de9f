"""Run the benchmark: every arm through the same four builds, round by round."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from benchmarks import report
from benchmarks.arms import Bench, arms
from benchmarks.measure import measured
from benchmarks.peers import EXTRAS
from benchmarks.results import Results, document, read
from benchmarks.wheelset import wheel_sets
from torchkiln import pipeline
from torchkiln.engine.connection import connect
from torchkiln.errors import EngineError
from torchkiln.files import write_atomic
from torchkiln.progress import say
from torchkiln.store import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.arms import Arm
    from benchmarks.sizes import LayerSize
    from torchkiln.catalog import Variant
    from torchkiln.engine.connection import Engine
    from torchkiln.pipeline import Project

SCENARIOS: Final = ("cold", "nothing", "small", "torch")
"""Nothing was built before; again; one light wheel was rebuilt; torch's wheel was rebuilt."""

_BASE: Final = "debian:bookworm-slim"
_LIMIT: Final = "limit"


def run(
    project: Project,
    variants: Sequence[Variant],
    *,
    rounds: int,
    only: Sequence[str],
    add: bool,
) -> Path:
    """Measure; write `benchmarks/results.json`, its path is returned, and what shows it.

    `only` names arms, all where it is empty; with `add` the runs come to those of the file. Nothing
    else may run on the machine meanwhile.
    """
    target = project.root / report.RESULTS
    results = read(target) if add else Results()
    warm: set[str] = set()
    with connect("docker", project.environ) as engine:
        _check(engine)
        for number in range(rounds):
            for variant in variants:
                say(f"round {number + 1} of {rounds}: {variant.id}")
                for arm, bench in _arms(project, variant, engine, only, results):
                    if arm.downloads and arm.id not in warm:  # fill its caches
                        arm.clear()
                        arm.build(bench.sets[0])
                        warm.add(arm.id)
                    _run_arm(arm, bench, results)
                    write_atomic(target, document(results, engine.version))
                    report.write(project.root)
    return target


def _arms(
    project: Project,
    variant: Variant,
    engine: Engine,
    only: Sequence[str],
    results: Results,
) -> Iterator[tuple[Arm, Bench]]:
    """Measure the limit, then give the arms one after the other."""
    pipeline.fetch_inputs(project, variant, frozen=True)
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
            yield arm, bench
    remove_tree(work)


def _run_arm(arm: Arm, bench: Bench, results: Results) -> None:
    """Measure one round of an arm; look at its images, too, if none did."""
    variant = bench.variant.id
    first = (variant, arm.id) not in results.images
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
