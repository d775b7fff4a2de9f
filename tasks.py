"""What `./kiln` can do: the tasks of `torchkiln.cli`, and those for Torchkiln's developers."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from signal import Signals
from typing import TYPE_CHECKING

from invoke.exceptions import Exit
from invoke.tasks import task

from torchkiln import bootstrap, foreground, pipeline
from torchkiln.cli.bundle import bundle, load_bundle
from torchkiln.cli.doctor import doctor
from torchkiln.cli.env import env_
from torchkiln.cli.flags import ROOT, expected
from torchkiln.cli.images import (
    build,
    check_contract,
    diff,
    export,
    fetch,
    run,
    shell,
    smoke,
    verify_,
)
from torchkiln.cli.launch import launch
from torchkiln.cli.proof import explain, provenance, sbom
from torchkiln.cli.registry import pull, push
from torchkiln.cli.store import gc
from torchkiln.cli.variants import check_facts, ci_matrix, list_, lock_, recommend, render_
from torchkiln.errors import VerifyError

if TYPE_CHECKING:
    from invoke.context import Context


@task(
    iterable=["variant", "arm"],
    help={
        "variant": "a variant to measure, more than once (default: cpu and cu117)",
        "arm": "an arm to measure, more than once (default: all)",
        "rounds": "how often each build is measured; medians are reported",
        "add": "add the runs to those in benchmarks/results.json",
    },
)
@expected
def bench(
    c: Context, variant: list[str], arm: list[str], rounds: int = 3, add: bool = False
) -> None:
    """Measure builds beside what people use today. Takes hours."""
    bench_ = importlib.import_module("benchmarks.bench")
    project = pipeline.open_project(ROOT)
    variants = [project.catalog.variant(name) for name in variant or ("cpu", "cu117")]
    print(bench_.run(project, variants, rounds=rounds, only=arm, add=add))


@task(
    help={
        "only": "a pytest expression (-k) that selects tests",
        "path": "a folder of tests",
        "slow": "the tests that take minutes too",
    }
)
@expected
def test(c: Context, only: str = "", path: str = "tests", slow: bool = False) -> None:
    """Run all tests and name those that cannot run here."""
    bootstrap.require_dev()
    command = [sys.executable, "-m", "pytest", path]
    command += [*(["-k", only] if only else []), *(["--slow"] if slow else [])]

    def start() -> subprocess.Popen[bytes]:
        # In a session of its own: Ctrl-C at the terminal would reach it twice.
        return subprocess.Popen(command, cwd=ROOT, start_new_session=True)

    ended = foreground.run(start, _send_to_pytest)
    if ended.signal:
        message = "stopped"
        raise Exit(message, 128 + ended.signal)
    if ended.code:
        what = "tests failed"
        raise VerifyError(what)


def _send_to_pytest(pytest: subprocess.Popen[bytes], number: Signals) -> bool:
    """Let fixtures clean up; what is killed takes the programs of its tests with it."""
    if number is Signals.SIGKILL:
        os.killpg(pytest.pid, number)
    else:
        pytest.send_signal(number)
    return True
