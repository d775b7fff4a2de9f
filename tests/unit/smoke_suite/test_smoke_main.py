"""The suite as a program, in this interpreter: it is no image, so the suite must say no."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import suite as module

SMOKE = Path(module.__file__).parent


def smoke(
    *arguments: str | Path, suite: Path = SMOKE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the suite as an image does."""
    return subprocess.run(
        [sys.executable, suite, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.fixture
def description(tmp_path: Path) -> Path:
    """Return the description of an image that this interpreter is not."""
    wheels = [{"name": "no-such-distribution", "version": "1.0"}]
    body = {"variant": "cpu", "torch": "0.1", "cuda": None, "lock": {"wheels": wheels}}
    path = tmp_path / "image.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


def test_without_a_description_the_suite_cannot_run(tmp_path: Path) -> None:
    run = smoke("--image", tmp_path / "none.json", "--output", tmp_path)

    assert run.returncode == 2
    assert "error: the smoke suite cannot run" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_without_a_folder_to_write_to_the_suite_cannot_run(description: Path) -> None:
    run = smoke("--image", description, "--output", description / "folder")

    assert run.returncode == 2
    assert "Traceback" not in run.stderr


def test_an_image_that_does_not_hold_its_lock_fails(description: Path, tmp_path: Path) -> None:
    run = smoke("--image", description, "--output", tmp_path / "out")
    document = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    entries = {entry["id"]: entry for entry in document["checks"]}

    assert run.returncode == 1
    assert document["passed"] is False
    assert entries["packages-version"]["detail"] == "no-such-distribution is not installed"
    assert entries["packages-import"]["verdict"] == "failed"
    assert "failed packages-version: no-such-distribution is not installed" in run.stdout


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("passed('')", 0), ("skipped('no device', 'no GPU here')", 0), ("failed('', 'broken')", 1)],
)
def test_the_exit_code_is_the_verdict(
    description: Path, tmp_path: Path, outcome: str, code: int
) -> None:
    """A suite of one check, and with a picture that needs no matplotlib."""
    suite = shutil.copytree(SMOKE, tmp_path / "suite", ignore=shutil.ignore_patterns("check_*"))
    check = f"from suite import *\ncheck('one')(lambda _: {outcome})\n"
    (suite / "check_one.py").write_text(check, encoding="utf-8")
    plot = "from suite import passed\ndef loss_curve(*_): return passed('drawn')\n"
    (suite / "plot.py").write_text(plot, encoding="utf-8")

    assert code == smoke("--image", description, "--output", tmp_path, suite=suite).returncode


def test_json_prints_the_report_and_nothing_else(description: Path, tmp_path: Path) -> None:
    run = smoke("--image", description, "--json", TORCHKILN_SMOKE_OUTPUT=str(tmp_path / "out"))

    assert json.loads(run.stdout) == json.loads((tmp_path / "out/report.json").read_bytes())


def test_the_results_go_to_a_new_temporary_folder_by_default(
    description: Path, tmp_path: Path
) -> None:
    run = smoke("--image", description, TMPDIR=str(tmp_path), TORCHKILN_SMOKE_OUTPUT="")

    (report,) = tmp_path.glob("torchkiln-smoke-*/report.json")

    assert run.stdout.endswith(f"report: {report}\n")
