"""`./kiln env` as people run it, with the locked wheels, and the doctor on what comes of it."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import uv
from engines import require_root
from kiln_runs import OFFLINE, Kiln, kill

if TYPE_CHECKING:
    from pathlib import Path


def made(kiln: Kiln, *words: str) -> dict[str, Any]:
    """Make an environment and return the JSON object; a failure fails the test."""
    done = kiln("env", *words, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_an_environment_is_made_after_a_kill_without_a_network_and_trains(
    cpu: dict[str, Any], kiln: Kiln, tmp_path: Path
) -> None:
    assert cpu["layers"], "after a build, the inputs are there"
    require_root("a network of its own")
    assert kiln("fetch", "--cpu").returncode == 0
    path = tmp_path / "environment"
    offline = Kiln(home=kiln.home, prefix=OFFLINE)
    killed = offline.start("env", "--cpu", "--path", str(path))
    while killed.poll() is None and not (path / "lib/python3.11/site-packages/torch").exists():
        time.sleep(0.01)
    kill(killed)
    first = made(offline, "--cpu", "--path", str(path))
    assert first["made"]
    assert first["smoke"] == {"passed": True, "skipped": []}
    assert (path / "share/torchkiln/smoke-cpu/loss.png").stat().st_size > 1000
    again = made(offline, "--cpu", "--path", str(path))
    assert not again["made"]
    assert kiln("env", "--check", str(path)).returncode == 0
    well = kiln("doctor", "--offline", "--python", str(path), "--json")
    assert json.loads(well.stdout)["counts"]["problem"] == 0, well.stdout


@pytest.mark.slow
def test_numpy_2_beside_the_torch_of_cu117_is_named_and_mended(kiln: Kiln, tmp_path: Path) -> None:
    """Failure 7 with the real wheels (pytorch/pytorch issue 135013)."""
    path = tmp_path / "environment"
    report = made(kiln, "--cuda", "117", "--path", str(path))
    assert report["smoke"]["skipped"] == ["cuda-visible", "cuda-capability", "cuda-matmul"]
    python = str(path / "bin/python")
    command = [uv.find_uv_bin(), "pip", "install", "--python", python, "numpy==2.2.6"]
    subprocess.run(command, check=True)
    broken = json.loads(kiln("doctor", "--offline", "--python", str(path), "--json").stdout)
    assert broken["exit_code"] == 1
    assert broken["findings"][0]["id"] == "numpy-abi"
    subprocess.run(["sh", "-c", broken["findings"][0]["remedy"]], check=True)
    mended = json.loads(kiln("doctor", "--offline", "--python", str(path), "--json").stdout)
    assert mended["counts"]["problem"] == 0
