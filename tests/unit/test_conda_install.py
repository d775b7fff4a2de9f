from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conda_channel import (
    CUDA_TORCH,
    NUMPY,
    PYTHON,
    cpu,
    cuda,
    make_channels,
    make_project,
)
from sandboxes import needs_sandbox
from wheels import Draft

from torchkiln.conda import install as installs
from torchkiln.conda.install import install_environment
from torchkiln.conda.lock import lock_environment
from torchkiln.errors import CondaError, EnvError
from torchkiln.sandbox import bubblewrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.catalog import Variant
    from torchkiln.pipeline import Project


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The channels, which no test changes."""
    return make_channels(tmp_path_factory.mktemp("channels"))


def locked(folder: Path, channels: Path, variant: Variant) -> Project:
    """Return a project with the conda lock of `variant`."""
    project = make_project(folder, channels, variant)
    lock_environment(project, variant)
    return project


def test_an_environment_is_what_its_lock_says(tmp_path: Path, channels: Path) -> None:
    project = locked(tmp_path, channels, cuda())

    done = install_environment(project, cuda(), tmp_path / "env")

    assert done.made
    records = {path.stem for path in (tmp_path / "env/conda-meta").glob("*.json")}
    assert {str(package) for package in done.packages} == records
    assert (tmp_path / "env/conda-meta/history").exists()  # conda's mark of an environment
    assert b"pytorch 2.13.0" == (tmp_path / "env/share/pytorch.txt").read_bytes()
    found = tmp_path / f"env/lib/python{PYTHON}/site-packages/matplotlib/__init__.py"
    command = [
        str(tmp_path / "env/bin/python"),
        "-c",
        "import matplotlib; print(matplotlib.__file__)",
    ]
    assert f"{found}\n" == subprocess.check_output(command, text=True)
    again = install_environment(project, cuda(), tmp_path / "env")
    assert not again.made
    assert f"conda activate {tmp_path / 'env'}" == installs.shown(again).splitlines()[-1]
    assert f"2.13.0 {CUDA_TORCH.build}" == installs.as_json(again)["packages"]["pytorch"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("", "needs `__cuda`, and there is none"),
        ("12.8", "needs `__cuda >=13`, and this is 12.8"),
        ("13.0", ""),
    ],
)
def test_a_driver_that_is_missing_or_too_old_is_told_and_torch_stays_as_locked(
    tmp_path: Path,
    channels: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    told: str,
) -> None:
    project = locked(tmp_path, channels, cuda())
    project = replace(project, environ={**project.environ, "CONDA_OVERRIDE_CUDA": override})

    done = install_environment(project, cuda(), tmp_path / "env")

    text = capsys.readouterr().err
    assert told in text
    assert bool(told) is ("will not run here" in text)
    assert CUDA_TORCH.build == next(one.build for one in done.packages if one.name == "pytorch")


def test_a_system_that_is_too_old_is_an_error(tmp_path: Path, channels: Path) -> None:
    project = make_project(tmp_path, channels, cpu())
    packages = lock_environment(project, cpu()).solution.packages

    with pytest.raises(CondaError) as caught:
        installs._check_machine(cpu(), packages, {"__glibc": "2.12"})

    assert "needs `__glibc >=2.17,<3.0.a0`, and this is 2.12" in caught.value.why


def test_a_driver_that_one_wants_and_another_only_limits_is_told(
    tmp_path: Path, channels: Path
) -> None:
    """The same words in the `constrains` of an earlier package do not hide the dependency."""
    project = make_project(tmp_path, channels, cuda())
    first, *rest = lock_environment(project, cuda()).solution.packages
    limits = replace(first, constrains=("__cuda >=12",), depends=())
    wants = replace(rest[-1], depends=("__cuda >=12",))

    for packages in ([limits, wants], [wants, limits]):
        unmet = list(installs._unmet(packages, {"__glibc": "2.36", "__linux": "6.1"}))
        assert [("__cuda", f"{wants} needs `__cuda >=12`, and there is none")] == unmet


def test_a_package_that_was_changed_in_a_folder_is_refused(tmp_path: Path) -> None:
    channels = make_channels(tmp_path / "channels")
    project = locked(tmp_path, channels, cpu())
    # Another whole package under its name: nothing but the hash tells them apart.
    other = replace(NUMPY, files={"share/numpy.txt": b"something else"})
    other.pack(channels)

    with pytest.raises(CondaError) as caught:
        install_environment(project, cpu(), tmp_path / "env")

    assert "a conda package is not the locked one" == caught.value.what
    assert caught.value.why.startswith("numpy-2.4.5-py311h64a7726_0: its sha256 is ")
    assert not (tmp_path / "env").exists()


def test_a_package_that_is_gone_is_named(tmp_path: Path) -> None:
    channels = make_channels(tmp_path / "channels")
    project = locked(tmp_path, channels, cpu())
    (channels / NUMPY.file).unlink()

    with pytest.raises(CondaError, match="a conda package is not the locked one") as caught:
        install_environment(project, cpu(), tmp_path / "env")

    assert "numpy-2.4.5-py311h64a7726_0: No such file" in caught.value.why


def test_a_package_that_was_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    channels = make_channels(tmp_path / "channels")
    project = locked(tmp_path, channels, cpu())
    replace(NUMPY, files={"share/numpy.txt": b"something else"}).pack(channels)

    with served(channels) as url:
        project = replace(project, environ={**project.environ, "CONDA_CHANNEL_ALIAS": url})
        with pytest.raises(CondaError) as caught:
            install_environment(project, cpu(), tmp_path / "env")

    assert "numpy-2.4.5-py311h64a7726_0" in caught.value.what
    assert "hash mismatch" in caught.value.why
    assert not (tmp_path / "env").exists()


def test_a_password_of_a_mirror_stays_out_of_the_environment(
    tmp_path: Path, channels: Path
) -> None:
    project = locked(tmp_path, channels, cpu())

    with served(channels) as url:
        mirror = url.replace("://", "://me:a%20secret@")
        project = replace(project, environ={**project.environ, "CONDA_CHANNEL_ALIAS": mirror})
        done = install_environment(project, cpu(), tmp_path / "env")

    files = [path for path in (tmp_path / "env").rglob("*") if path.is_file()]
    assert [] == [path for path in files if b"secret@" in path.read_bytes()]
    for package in done.packages:
        record = json.loads((tmp_path / f"env/conda-meta/{package}.json").read_text())
        assert (package.url, package.sha256) == (record["url"], record["sha256"])


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder by HTTP."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_that_was_changed_in_the_cache_is_not_installed(
    tmp_path: Path, channels: Path
) -> None:
    """Files of an environment are hard links to the cache, so that an editor changes both."""
    project = locked(tmp_path, channels, cpu())
    install_environment(project, cpu(), tmp_path / "one")
    changed = tmp_path / "one/share/numpy.txt"
    changed.chmod(0o644)
    changed.write_bytes(b"numpy 9.9.9")

    install_environment(project, cpu(), tmp_path / "two")

    assert b"numpy 2.4.5" == (tmp_path / "two/share/numpy.txt").read_bytes()


def test_an_interrupted_environment_is_made_anew(tmp_path: Path, channels: Path) -> None:
    project = locked(tmp_path, channels, cpu())
    install_environment(project, cpu(), tmp_path / "env")
    (tmp_path / "env/share/torchkiln/conda-lock.sha256").unlink()  # it is written last
    (tmp_path / "env/conda-meta/numpy-2.4.5-py311h64a7726_0.json").write_text("{half")
    (tmp_path / "env/share/rest.txt").write_text("")

    assert install_environment(project, cpu(), tmp_path / "env").made
    assert not (tmp_path / "env/share/rest.txt").exists()
    assert (tmp_path / "env/share/numpy.txt").exists()


def test_what_is_there_stays_as_it_is(tmp_path: Path, channels: Path) -> None:
    project = make_project(tmp_path, channels, cpu(), cuda())
    for variant in (cpu(), cuda()):
        lock_environment(project, variant)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    install_environment(project, cpu(), tmp_path / "env")

    with pytest.raises(EnvError, match="there is something else at this path"):
        install_environment(project, cpu(), tmp_path / "mine")
    with pytest.raises(CondaError, match="there is another environment at this path"):
        install_environment(project, cuda(), tmp_path / "env")

    assert ["file"] == [path.name for path in (tmp_path / "mine").iterdir()]
    assert (tmp_path / "env/share/pytorch.txt").exists()


def test_wheels_are_installed_where_no_channel_has_torch(tmp_path: Path, channels: Path) -> None:
    """They come from the lock, by their hashes, into the prefix and nowhere else."""
    made = Draft()
    data = made.pack()
    variant = cpu(torch="2.99.0", packages=())
    project = make_project(tmp_path, channels, variant, wheels=[made.locked(data)])
    project.store.put(data)
    lock_environment(project, variant)

    install_environment(project, variant, tmp_path / "env")

    command = [str(tmp_path / "env/bin/python"), "-c", "import demo; print(demo.__file__)"]
    assert str(tmp_path / "env") in subprocess.check_output(command, text=True)


@needs_sandbox
def test_all_of_it_works_without_a_network(tmp_path: Path, channels: Path) -> None:
    """Solved, locked and installed, where there is not even an interface but the loopback."""
    program = (
        "from pathlib import Path; import test_conda_install as t; t.offline(*map(Path, %r))"
    ) % [str(tmp_path), str(channels)]
    command = [
        str(bubblewrap()),
        "--unshare-net",
        "--dev-bind",
        "/",
        "/",
        sys.executable,
        "-c",
        program,
    ]
    paths = f"{Path(__file__).parent}:{Path(__file__).parents[2]}"
    subprocess.run(command, check=True, env={"PYTHONPATH": paths, "HOME": str(tmp_path)})

    assert (tmp_path / "env/share/pytorch.txt").exists()


def offline(folder: Path, channels: Path) -> None:
    """Lock and install, in a process of its own."""
    names = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()]
    assert ["lo"] == names[2:]
    project = locked(folder, channels, cuda())
    install_environment(project, cuda(), folder / "env")
