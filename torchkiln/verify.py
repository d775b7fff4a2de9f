"""Verify an image: run `tests/image` on it, with the project's own pytest and testinfra."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from torchkiln.engine.containers import check_starts, remove_run
from torchkiln.errors import VerifyError
from torchkiln.progress import say
from torchkiln.run import RunOptions
from torchkiln.sandbox import check
from torchkiln.tree import image_tree

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.engine.connection import Engine
    from torchkiln.engine.images import EngineImage
    from torchkiln.engine.job import Job
    from torchkiln.image import Image

_TESTS: Final = "tests/image"
_REASON: Final = 300  # characters of a reason that are shown; all of it is in the JUnit report
_RAN: Final = (0, 1)  # pytest's exit codes when tests ran to the end: all passed, some failed


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What the tests found: names of those that passed, and name and reason of the others."""

    passed: tuple[str, ...]
    failed: dict[str, str]
    skipped: dict[str, str]
    seconds: float

    @property
    def output(self) -> str:
        """Return a line for each test that failed or was skipped, and a summary."""
        lines = [f"FAILED {name}: {reason}" for name, reason in self.failed.items()]
        lines += [f"skipped {name}: {reason}" for name, reason in self.skipped.items()]
        counts = f"{len(self.passed)} passed, {len(self.failed)} failed"
        return "\n".join([*lines, f"{counts}, {len(self.skipped)} skipped in {self.seconds:.1f} s"])


def verify(job: Job, image: Image, *, junit: Path | None = None) -> VerifyReport:
    """Run all tests on `image`; failures raise `VerifyError` that names them.

    `junit` is where pytest's report (JUnit XML) is kept.
    """
    check(RunOptions().uid)  # without a sandbox, tests would blame the image
    tree = image_tree(job.store, image.layers)
    options = ["--layout", str(image.layout), "--tree", str(tree)]
    return _test(job, image.reference, options, junit)


def verify_in(job: Job, engine: Engine, image: EngineImage, gpus: str = "") -> VerifyReport:
    """Run the tests on what `engine` has, in its containers; failures raise `VerifyError`."""
    check_starts(engine, image, gpus)  # else each test would blame the image
    run = uuid.uuid4().hex
    options = ["--engine", engine.name, "--reference", image.reference, "--containers", run]
    options += ["--gpus", gpus] if gpus else []
    try:
        return _test(job, image.reference, options)
    finally:
        # Also those of tests that were killed.
        remove_run(engine, run)


def _test(job: Job, reference: str, options: list[str], junit: Path | None = None) -> VerifyReport:
    """Run `tests/image` with the options that say on which image."""
    say(f"Verifying `{reference}`")
    options += ["--variant", job.variant.id, "--blobs", str(job.store.root / "blobs/sha256")]
    with job.store.workspace() as folder:
        report = junit or folder / "junit.xml"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", _TESTS, "-q", "--tb=short"),
                *("-p", "no:cacheprovider", "--rootdir", str(job.project)),
                *("-o", "junit_family=xunit1", "--junit-xml", str(report)),
                *options,
            ],
            cwd=job.project,
            env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode not in _RAN:
            what = f"the tests could not run on `{reference}`"
            raise VerifyError(what, done.stdout[-2000:])
        found = read_report(report)
    if found.failed or done.returncode:
        what = f"`{reference}` does not hold what it should"
        hint = shlex.join([sys.executable, "-m", "pytest", _TESTS, *options])
        raise VerifyError(what, found.output, hint=hint)
    return found


def read_report(path: Path) -> VerifyReport:
    """Return what a JUnit report of pytest says."""
    suite = ET.parse(path).getroot().find("testsuite")  # noqa: S314 - pytest has just written it
    passed, failed, skipped = [], {}, {}
    for case in suite.iter("testcase") if suite is not None else ():
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        if (fault := _find(case, "failure", "error")) is not None:
            failed[name] = _reason(fault.get("message", ""))
        elif (skip := _find(case, "skipped")) is not None:
            skipped[name] = skip.get("message", "")
        else:
            passed.append(name)
    seconds = float(suite.get("time", "0")) if suite is not None else 0.0
    return VerifyReport(passed=tuple(passed), failed=failed, skipped=skipped, seconds=seconds)


def _reason(message: str) -> str:
    """Return pytest's message in short, without its own words at the start."""
    lines = message.removeprefix("AssertionError: ").removeprefix("assert ").splitlines()
    return "; ".join(line.strip() for line in lines if line.strip())[:_REASON]


def _find(case: ET.Element, *tags: str) -> ET.Element | None:
    return next((child for child in case if child.tag in tags), None)
