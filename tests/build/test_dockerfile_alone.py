"""The Dockerfile on a machine that has a network and no Torchkiln.

Images cannot be pulled everywhere, so Debian's slim image is made here, under its name. What this
machine's pip is configured with goes into it; nothing else of Torchkiln does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engines import Dockerd, dockerds, require, require_buildx, require_root
from kiln_runs import PROJECT, cpu_job, folder, output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engines import Engine
    from kiln_runs import Kiln

RELEASE = "bookworm"


@pytest.fixture(scope="module")
def docker() -> Iterator[Engine]:
    """Docker that has an image by the name of Debian's."""
    require_buildx()
    require("debootstrap")
    require_root("debootstrap")
    with folder() as place:
        program = dockerds(lambda version: version >= 23)
        with Dockerd(folder=place, program=program).running() as engine:
            _import_debian(engine, place / "root")
            yield engine


def _import_debian(engine: Engine, root: Path) -> None:
    mirror = output(
        *("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"),
        *("Origin: Debian", f"Codename: {RELEASE}"),
    ).split()
    if not mirror:
        pytest.skip(f"apt knows no mirror of {RELEASE}")
    command = ["debootstrap", "--variant=minbase", RELEASE, str(root), mirror[0]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    _configure_pip(root)
    tar = ["tar", "--directory", str(root), "--numeric-owner", "--create", "."]
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as packing:
        name = f"debian:{RELEASE}-slim"
        subprocess.run([*engine.command, "import", "-", name], stdin=packing.stdout, check=True)


def _configure_pip(root: Path) -> None:
    """Give the image's pip what this machine's has: certificates, and folders of wheels."""
    lines = ["[global]", "retries = 0"]
    if certificates := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
        shutil.copy(certificates, root / "etc/machine.crt")
        lines.append("cert = /etc/machine.crt")
    for number, place in enumerate(os.environ.get("PIP_FIND_LINKS", "").split()):
        if Path(place).is_dir():
            shutil.copytree(place, root / f"wheels{number}")
            lines.append(f"find-links = /wheels{number}")
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")


def test_the_dockerfile_alone_gives_an_image_that_works(docker: Engine, kiln: Kiln) -> None:
    """With a network for its first two stages alone, and the suite from the project's folder."""
    _build(docker, "--build-context", f"smoke={PROJECT}/smoke")

    table = docker.run("alone:cpu", "smoke")
    user = docker("image", "inspect", "--format", "{{.Config.User}}", "alone:cpu").strip()
    listed = json.loads(docker.run("alone:cpu", "pip", "list", "--format", "json"))

    assert " passed in " in table
    assert "1000:0" == user
    assert {wheel.name: wheel.version for wheel in cpu_job(kiln.home).lock.wheels} == {
        one["name"].lower().replace("_", "-"): one["version"] for one in listed
    }


@pytest.mark.slow
def test_without_its_suite_the_image_works_too(docker: Engine) -> None:
    _build(docker)

    said = docker.run("alone:cpu", "python", "-c", "import torch; print(torch.ones(2).sum())")

    assert "tensor(2.)" == said.strip()


def _build(engine: Engine, *options: str) -> None:
    words = ("--load", "--network", "host", "--tag", "alone:cpu", *options)
    engine("buildx", "build", *words, str(PROJECT / "images/cpu"))
