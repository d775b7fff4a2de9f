"""The contract's points on real images: ours wherever it lies, and one that Docker made."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from engines import docker

from torchkiln.errors import VerifyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engines import Engine
    from kiln_runs import Kiln


@pytest.fixture
def running(scratch: Path) -> Iterator[Engine]:
    """The Docker that answers here."""
    with docker("running", scratch) as engine:
        yield engine


def verdicts(text: str) -> dict[str, str]:
    return {point["id"][:3]: point["verdict"] for point in json.loads(text)["points"]}


@pytest.mark.parametrize("place", ["layout", "archive", "docker"])
def test_the_cpu_image_passes_every_point_wherever_it_lies(
    kiln: Kiln, cpu: dict[str, Any], request: pytest.FixtureRequest, place: str
) -> None:
    """What the driver's libraries need is no matter of a CPU image."""
    if place == "docker":
        request.getfixturevalue("running")
        assert kiln("build", "--cpu", "--no-smoke", "--load").returncode == 0
        image = "cpu@docker"
    elif place == "archive":
        image = str(request.getfixturevalue("archive"))
    else:
        image = cpu["layout"]

    done = kiln("check-contract", image, "--json")

    assert done.returncode == 0, done.stderr
    assert {"C07": "n.a."} == {
        name: one for name, one in verdicts(done.stdout).items() if one != "PASS"
    }


def test_an_image_that_docker_imported_is_judged_with_causes_and_fixes(
    kiln: Kiln, running: Engine
) -> None:
    """A setuid program, a file of the home, and no user: no point more fails than these break."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, mode in (("bin/su", 0o4755), ("home/app/run", 0o755)):
            info = tarfile.TarInfo(path)
            info.mode = mode
            archive.addfile(info)
    name = f"kiln-foreign:{os.getpid()}"
    command = [*running.command, "import", "-", name]
    subprocess.run(command, input=stream.getvalue(), env=running.env, check=True)
    try:
        done = kiln("check-contract", f"{name}@docker")
        found = verdicts(kiln("check-contract", f"{name}@docker", "--json").stdout)
    finally:
        running("rmi", name)

    assert VerifyError.exit_code == done.returncode
    assert ["C01", "C02", "C04", "C10"] == [key for key, one in found.items() if one == "FAIL"]
    for text in ("/bin/su: has mode 4755", "/home/app/run: lies below", "cause: ", "fix: USER 1"):
        assert text in done.stdout
    assert f"error: `{name}@docker` does not run everywhere: C01-user" in done.stderr
    assert "Traceback" not in done.stderr
