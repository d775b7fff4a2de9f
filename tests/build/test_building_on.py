"""What people do with an image: install Debian packages and wheels on top of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import uv
from kiln_runs import Kiln, cpu_job

from torchkiln.config import environment
from torchkiln.sandbox import Mount, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable

# apt gives its downloads to another user, which a sandbox with one user has not.
APT: Final = "apt-get -q -o APT::Sandbox::User=root"
OLDER: Final = "2.12.0"
NEWER: Final = "2.99.0"


def test_apt_get_installs_on_the_image(kiln: Kiln, cpu: dict[str, Any], scratch: Path) -> None:
    """Where the image's own package sources answer."""
    sandbox = _writable(kiln, cpu, scratch / "root")
    if (done := _shell(sandbox, f"{APT} -o APT::Update::Error-Mode=any update")).returncode:
        pytest.skip(f"the image's package sources do not answer: {done.stderr[-300:]}")

    done = _shell(sandbox, f"{APT} install -y --no-install-recommends hello && hello")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hello, world!" == done.stdout.splitlines()[-1]
    assert "" == _shell(sandbox, "dpkg --audit").stdout
    assert not (scratch / "root/usr/share/man/man1/hello.1.gz").exists(), "slim stays slim"


@pytest.fixture
def wheels(scratch: Path) -> Path:
    """A folder with an older torch and two packages, of which one demands it."""
    place = scratch / "wheels"
    place.mkdir()
    _write_wheel(place, "torch", OLDER, [])
    _write_wheel(place, "demanding", "1", [f"torch=={OLDER}"])
    _write_wheel(place, "content", "1", ["torch"])
    return place


@pytest.mark.usefixtures("cpu")
def test_pip_refuses_what_would_swap_torch(kiln: Kiln, wheels: Path) -> None:
    done = _pip_install(kiln, wheels, "demanding")

    assert done.returncode == 1, done.stdout
    assert f"(constraint) torch=={_torch(kiln)}" in done.stdout + done.stderr


@pytest.mark.usefixtures("cpu")
def test_without_the_constraints_pip_would_swap_torch(kiln: Kiln, wheels: Path) -> None:
    """The control of the test above."""
    done = _pip_install(kiln, wheels, "demanding", "env", "--unset=PIP_CONSTRAINT")

    assert done.returncode == 0, done.stderr
    assert f"Would install demanding-1 torch-{OLDER}" in done.stdout


@pytest.mark.usefixtures("cpu")
def test_uv_refuses_what_would_swap_torch_and_upgrades_the_rest(kiln: Kiln, wheels: Path) -> None:
    """`uv pip install -U` takes the newest of all that is required, also what is there."""
    done = _uv_install(kiln, wheels, "demanding")
    assert done.returncode == 1, done.stderr
    assert f"torch=={_torch(kiln)}" in done.stderr

    _write_wheel(wheels, "torch", NEWER, [])
    _write_wheel(wheels, "torch", _torch(kiln), [])
    done = _uv_install(kiln, wheels, "--upgrade", "content")
    assert done.returncode == 0, done.stderr
    assert " torch==" not in done.stderr


@pytest.mark.usefixtures("cpu")
def test_without_the_constraints_uv_would_swap_torch(kiln: Kiln, wheels: Path) -> None:
    """The control of the test above."""
    _write_wheel(wheels, "torch", NEWER, [])
    done = _uv_install(kiln, wheels, "--upgrade", "content", prefix=("--unset=UV_CONSTRAINT",))

    assert done.returncode == 0, done.stderr
    assert f" + torch=={NEWER}" in done.stderr


@pytest.mark.usefixtures("cpu")
def test_pip_and_uv_refuse_a_torchvision_for_cuda(kiln: Kiln, wheels: Path) -> None:
    """That of the default index, which fails to be imported beside a torch for CPUs."""
    _write_wheel(wheels, "torchvision", "0.28.0", ["torch==2.13.0"])
    for install in (_pip_install, _uv_install):
        done = install(kiln, wheels, "torchvision")

        assert done.returncode == 1, done.stdout
        assert "torchvision==0.28.0+cpu" in done.stdout + done.stderr


@pytest.mark.usefixtures("cpu")
def test_pip_installs_what_is_content_with_the_torch_that_is_there(
    kiln: Kiln, wheels: Path
) -> None:
    done = _pip_install(kiln, wheels, "content")

    assert done.returncode == 0, done.stderr
    assert "Would install content-1" == done.stdout.splitlines()[-1]


def _torch(kiln: Kiln) -> str:
    return cpu_job(kiln.home).lock.wheel("torch").version


def _pip_install(
    kiln: Kiln, wheels: Path, name: str, *prefix: str
) -> subprocess.CompletedProcess[str]:
    command = ("pip", "install", "--dry-run", "--no-index", "--find-links", "/wheels", name)
    return kiln("run", "--cpu", "--mount", f"{wheels}:/wheels", "--", *prefix, *command)


def _uv_install(
    kiln: Kiln, wheels: Path, *words: str, prefix: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run uv in the image; a user brings it along, and the image need not know of it."""
    mounts = ("--mount", f"{wheels}:/wheels", "--mount", f"{uv.find_uv_bin()}:/uv")
    options = ("--dry-run", "--offline", "--no-index", "--find-links", "/wheels")
    command = ("env", *prefix, "/uv", "pip", "install", *options, *words)
    return kiln("run", "--cpu", *mounts, "--", *command)


def _write_wheel(place: Path, name: str, version: str, requirements: Iterable[str]) -> None:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
    with zipfile.ZipFile(place / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        tags = "Root-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\n{tags}")
        archive.writestr(f"{info}/RECORD", "")


def _writable(kiln: Kiln, cpu: dict[str, Any], root: Path) -> Sandbox:
    """Return a sandbox with a network on a copy of the image's base."""
    base = cpu["layers"][0]["diff_id"].removeprefix("sha256:")
    shutil.copytree(kiln.home / "trees" / base, root, symlinks=True)
    proxies = {name: value for name, value in os.environ.items() if name.endswith("_proxy")}
    names = [Path("/etc/resolv.conf"), Path("/etc/hosts")]
    for name in names:
        (root / name.relative_to("/")).touch()
    return Sandbox(
        root=root,
        env={**environment(cpu_job(kiln.home).variant), **proxies},
        mounts=tuple(Mount(source=name.resolve(), target=str(name)) for name in names),
        network=True,
        writable=True,
        ignore_chown=True,
    )


def _shell(sandbox: Sandbox, script: str) -> subprocess.CompletedProcess[str]:
    done = sandbox.run(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)
