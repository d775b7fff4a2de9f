from __future__ import annotations

import json
import os
import shutil
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
    CPU_TORCH,
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
from torchkiln.conda import mend, needs, record, spec
from torchkiln.conda.install import Options, install_environment
from torchkiln.conda.lock import lock_environment
from torchkiln.environment.make import demand_no_conda
from torchkiln.errors import CondaError, EnvError, SmokeError
from torchkiln.lockfile import dump, kernel_inputs, kernel_lock_path, read_variant_lock
from torchkiln.pipeline import open_project
from torchkiln.sandbox import bubblewrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.catalog import Variant
    from torchkiln.environment.compare import Comparison
    from torchkiln.environment.mend import RepairReport
    from torchkiln.environment.record import Environment
    from torchkiln.pipeline import Project


SUITE = Path(__file__).parents[2] / "smoke"
UNTRIED = Options(smoke=False)  # what stands for torch here is none


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

    done = install_environment(project, cuda(), tmp_path / "env", UNTRIED)

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
    again = install_environment(project, cuda(), tmp_path / "env", UNTRIED)
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

    done = install_environment(project, cuda(), tmp_path / "env", UNTRIED)

    text = capsys.readouterr().err
    assert told in text
    assert bool(told) is ("will not run here" in text)
    assert CUDA_TORCH.build == next(one.build for one in done.packages if one.name == "pytorch")


def test_a_system_that_is_too_old_is_an_error(tmp_path: Path, channels: Path) -> None:
    project = make_project(tmp_path, channels, cpu())
    packages = lock_environment(project, cpu()).solution.packages

    with pytest.raises(CondaError) as caught:
        needs.check_machine(cpu(), packages, {"__glibc": "2.12"})

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
        unmet = list(needs.unmet(packages, {"__glibc": "2.36", "__linux": "6.1"}))
        assert [("__cuda", f"{wants} needs `__cuda >=12`, and there is none")] == unmet


def test_a_package_that_was_changed_in_a_folder_is_refused(tmp_path: Path) -> None:
    channels = make_channels(tmp_path / "channels")
    project = locked(tmp_path, channels, cpu())
    # Another whole package under its name: nothing but the hash tells them apart.
    other = replace(NUMPY, files={"share/numpy.txt": b"something else"})
    other.pack(channels)

    with pytest.raises(CondaError) as caught:
        install_environment(project, cpu(), tmp_path / "env", UNTRIED)

    assert "a conda package is not the locked one" == caught.value.what
    assert caught.value.why.startswith("numpy-2.4.5-py311h64a7726_0: its sha256 is ")
    assert not (tmp_path / "env").exists()


def test_a_package_that_is_gone_is_named(tmp_path: Path) -> None:
    channels = make_channels(tmp_path / "channels")
    project = locked(tmp_path, channels, cpu())
    (channels / NUMPY.file).unlink()

    with pytest.raises(CondaError, match="a conda package is not the locked one") as caught:
        install_environment(project, cpu(), tmp_path / "env", UNTRIED)

    assert "numpy-2.4.5-py311h64a7726_0: No such file" in caught.value.why


def test_a_package_that_was_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    channels = make_channels(tmp_path / "channels")
    project = locked(tmp_path, channels, cpu())
    replace(NUMPY, files={"share/numpy.txt": b"something else"}).pack(channels)

    with served(channels) as url:
        project = replace(project, environ={**project.environ, "CONDA_CHANNEL_ALIAS": url})
        with pytest.raises(CondaError) as caught:
            install_environment(project, cpu(), tmp_path / "env", UNTRIED)

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
        done = install_environment(project, cpu(), tmp_path / "env", UNTRIED)

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
    install_environment(project, cpu(), tmp_path / "one", UNTRIED)
    changed = tmp_path / "one/share/numpy.txt"
    changed.chmod(0o644)
    changed.write_bytes(b"numpy 9.9.9")

    install_environment(project, cpu(), tmp_path / "two", UNTRIED)

    assert b"numpy 2.4.5" == (tmp_path / "two/share/numpy.txt").read_bytes()


def test_an_interrupted_environment_is_made_anew(tmp_path: Path, channels: Path) -> None:
    project = locked(tmp_path, channels, cpu())
    install_environment(project, cpu(), tmp_path / "env", UNTRIED)
    (tmp_path / "env/share/torchkiln/conda.json").unlink()  # it is written last
    (tmp_path / "env/conda-meta/numpy-2.4.5-py311h64a7726_0.json").write_text("{half")
    (tmp_path / "env/share/rest.txt").write_text("")

    assert install_environment(project, cpu(), tmp_path / "env", UNTRIED).made
    assert not (tmp_path / "env/share/rest.txt").exists()
    assert (tmp_path / "env/share/numpy.txt").exists()


def test_what_is_there_stays_as_it_is(tmp_path: Path, channels: Path) -> None:
    project = make_project(tmp_path, channels, cpu(), cuda())
    for variant in (cpu(), cuda()):
        lock_environment(project, variant)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    install_environment(project, cpu(), tmp_path / "env", UNTRIED)

    with pytest.raises(EnvError, match="there is something else at this path"):
        install_environment(project, cpu(), tmp_path / "mine", UNTRIED)
    with pytest.raises(CondaError, match="there is another environment at this path"):
        install_environment(project, cuda(), tmp_path / "env", UNTRIED)

    assert ["file"] == [path.name for path in (tmp_path / "mine").iterdir()]
    assert (tmp_path / "env/share/pytorch.txt").exists()


def test_wheels_are_installed_where_no_channel_has_torch(tmp_path: Path, channels: Path) -> None:
    """They come from the lock, by their hashes, into the prefix and nowhere else."""
    project = with_wheels(tmp_path, channels)
    variant = project.catalog.variant("cpu")

    install_environment(project, variant, tmp_path / "env", UNTRIED)

    program = "import demo, ipykernel; print(demo.__file__, ipykernel.__file__)"
    said = subprocess.check_output([str(tmp_path / "env/bin/python"), "-c", program], text=True)
    assert said.count(str(tmp_path / "env")) == 2


def test_beside_locked_wheels_pip_is_held_to_them(tmp_path: Path, channels: Path) -> None:
    """The pip of conda reads pip.conf of its prefix, as that of a virtual environment does."""
    project = with_wheels(tmp_path, channels)
    variant = project.catalog.variant("cpu")

    env = install_environment(project, variant, tmp_path / "env", UNTRIED).env

    constraints = env.own / "constraints.txt"
    assert constraints.as_uri() in (env.root / "pip.conf").read_text()
    assert "torch==2.99.0" in constraints.read_text().splitlines()
    constraints.unlink()
    assert ["constraints.txt"] == checked(project, env).names
    assert ("constraints.txt",) == repaired(project, env).mended


def test_wheels_that_were_locked_anew_make_it_another_environment(
    tmp_path: Path, channels: Path
) -> None:
    project = with_wheels(tmp_path, channels)
    variant = project.catalog.variant("cpu")
    install_environment(project, variant, tmp_path / "env", UNTRIED)
    assert not install_environment(project, variant, tmp_path / "env", UNTRIED).made
    lock = read_variant_lock(tmp_path, project.catalog, variant)
    beside = replace(lock, inputs=kernel_inputs(lock), wheels=())
    kernel_lock_path(tmp_path, "cpu").write_text(dump(beside))

    with pytest.raises(CondaError, match="the environment is not what the lock says"):
        install_environment(project, variant, tmp_path / "env", UNTRIED)


def test_a_suite_that_fails_is_an_error_and_the_environment_stays(
    tmp_path: Path, channels: Path
) -> None:
    """The torch of these channels is none."""
    project = locked(tmp_path, channels, cpu())
    shutil.copytree(SUITE, tmp_path / "smoke")

    with pytest.raises(SmokeError, match="the smoke suite failed in `cpu`") as caught:
        install_environment(project, cpu(), tmp_path / "env", Options())

    assert "torch is not installed" in caught.value.why
    assert not install_environment(project, cpu(), tmp_path / "env", UNTRIED).made


def test_the_suite_is_promised_what_conda_promises(tmp_path: Path, channels: Path) -> None:
    """conda-forge's torch adds the number of its build, which is no other torch."""
    project = locked(tmp_path, channels, cpu())
    site = tmp_path / f"env/lib/python{PYTHON}/site-packages"
    done = install_environment(project, cpu(), tmp_path / "env", UNTRIED)
    for name, version in (("torch", "2.13.0.post100"), ("numpy", "1.26.4")):
        (site / f"{name}.dist-info").mkdir(parents=True)
        (site / f"{name}.dist-info/METADATA").write_text(f"Name: {name}\nVersion: {version}\n")

    installs.describe(project, cpu(), done.env, done.packages)

    said = json.loads((done.env.own / "image.json").read_text())
    assert {
        "ipykernel": "7.3.0",
        "matplotlib": "3.11.2",
        "numpy": "2.4.5",
        "pip": "26.3",
        "torch": "2.13.0.post100",
    } == {one["name"]: one["version"] for one in said["lock"]["wheels"]}


def test_what_differs_is_said_by_package_and_mended_alone(tmp_path: Path, channels: Path) -> None:
    project = locked(tmp_path, channels, cpu())
    env = install_environment(project, cpu(), tmp_path / "env", UNTRIED).env
    assert not checked(project, env).differences
    meta, share = env.root / "conda-meta", env.root / "share"
    pip = env.root / f"lib/python{PYTHON}/site-packages/pip/__init__.py"
    untouched = pip.stat().st_ino
    # A file that was changed, without a word to the cache, and one that is gone.
    (share / "numpy.txt").unlink()
    (share / "numpy.txt").write_text("numpy 9.9.9")
    (share / "pytorch.txt").unlink()
    # A record that was cut, and a package that somebody added.
    broken = next(meta.glob("matplotlib-*.json"))
    broken.write_text("{half")
    added = {
        "name": "mine",
        "version": "1",
        "build": "0",
        "paths_data": {"paths_version": 1, "paths": []},
    }
    told = json.loads(next(meta.glob("pip-*.json")).read_text())
    (meta / "mine-1-0.json").write_text(json.dumps(told | added))

    found = checked(project, env)

    assert [
        ("matplotlib", "missing"),
        ("numpy", "changed: share/numpy.txt"),
        ("pytorch", "missing: share/pytorch.txt"),
    ] == [(one.name, one.found) for one in found.differences]
    assert {"mine": "1 0"} == found.foreign
    done = repaired(project, env)
    assert ("matplotlib", "numpy", "pytorch") == done.mended
    assert not checked(project, env).differences
    assert b"numpy 2.4.5" == (share / "numpy.txt").read_bytes()
    assert (meta / "mine-1-0.json").exists()
    assert untouched == pip.stat().st_ino
    assert () == repaired(project, env).mended


def test_another_build_is_a_difference(tmp_path: Path, channels: Path) -> None:
    """As `conda install` leaves it: the CPU build in the place of CUDA's."""
    project = make_project(tmp_path, channels, cpu(), cuda())
    for variant in (cpu(), cuda()):
        lock_environment(project, variant)
    install_environment(project, cuda(), tmp_path / "env", UNTRIED)
    env = install_environment(project, cpu(), tmp_path / "other", UNTRIED).env
    cuda_record = record.CondaRecord(variant="cu130", lock="")

    found = mend.check(project, env, cuda_record).comparison

    assert [("cuda-version", "missing"), ("pytorch", f"2.13.0 {CPU_TORCH.build}")] == [
        (one.name, one.found) for one in found.differences
    ]
    mend.repair(project, env, cuda_record, with_smoke=False)
    assert not mend.check(project, env, cuda_record).comparison.differences
    assert not install_environment(project, cuda(), env.root, UNTRIED).made


def with_wheels(folder: Path, channels: Path) -> Project:
    """Return a project with a locked variant of which no channel has the torch."""
    drafts = (
        Draft(),
        Draft(name="torch", version="2.99.0", members={"torch/__init__.py": b""}),
        Draft(name="ipykernel", members={"ipykernel/__init__.py": b""}),
    )
    packed = [one.pack() for one in drafts]
    *wheels, kernel = (one.locked(data) for one, data in zip(drafts, packed, strict=True))
    variant = cpu(torch="2.99.0", packages=())
    project = make_project(folder, channels, variant, wheels=wheels, kernel=[kernel])
    for data in packed:
        project.store.put(data)
    lock_environment(project, variant)
    return project


def checked(project: Project, env: Environment) -> Comparison:
    """Compare the CPU environment with its lock."""
    return mend.check(project, env, there(env)).comparison


def repaired(project: Project, env: Environment) -> RepairReport:
    """Mend the CPU environment."""
    return mend.repair(project, env, there(env), with_smoke=False)


def there(env: Environment) -> record.CondaRecord:
    """Return the record, which is there."""
    found = record.read(env)
    assert found
    return found


def test_wheels_beside_condas_packages_are_compared_and_mended_too(
    tmp_path: Path, channels: Path
) -> None:
    project = with_wheels(tmp_path, channels)
    variant = project.catalog.variant("cpu")
    env = install_environment(project, variant, tmp_path / "env", UNTRIED).env
    site = env.site(PYTHON)
    assert not checked(project, env).differences
    (site / "demo/__init__.py").unlink()
    (site / "foreign-1.dist-info").mkdir()
    (site / "foreign-1.dist-info/METADATA").write_text("Name: foreign\nVersion: 1\n")

    found = checked(project, env)

    assert [("demo", "missing: demo/__init__.py")] == [
        (one.name, one.found) for one in found.differences
    ]
    assert {"foreign": "1"} == found.foreign
    assert ("demo",) == repaired(project, env).mended
    assert not checked(project, env).differences


def test_a_conda_environment_is_made_anew_when_asked_alone(tmp_path: Path, channels: Path) -> None:
    project = locked(tmp_path, channels, cpu())
    env = install_environment(project, cpu(), tmp_path / "env", UNTRIED).env
    (env.root / "rest.txt").write_text("")

    with pytest.raises(EnvError, match="there is another environment at this path"):
        demand_no_conda(env)
    assert (env.root / "rest.txt").exists()
    again = install_environment(project, cpu(), env.root, Options(recreate=True, smoke=False))

    assert again.made
    assert not (env.root / "rest.txt").exists()


@pytest.mark.slow
def test_the_real_torch_trains_in_a_conda_environment(
    tmp_path: Path, channels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no channel has its build: conda's Python, the locked wheels, the real suite."""
    monkeypatch.setattr(spec, "_CONDA_FORGE", {})
    real = open_project(SUITE.parent)
    variant = real.catalog.variant("cpu")
    root = tmp_path / "project"
    for folder in ("envs", "smoke", "images"):
        shutil.copytree(SUITE.parent / folder, root / folder)
    project = replace(
        real, root=root, environ={**os.environ, "CONDA_CHANNEL_ALIAS": channels.as_uri()}
    )
    lock_environment(project, variant)

    done = install_environment(project, variant, tmp_path / "env", Options())

    assert done.smoke
    assert done.smoke.passed
    assert "19 checks passed" in installs.shown(done)
    assert (done.env.own / "smoke-cpu/loss.png").stat().st_size > 1000
    assert not mend.check(project, done.env, there(done.env)).comparison.differences


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
    install_environment(project, cuda(), folder / "env", UNTRIED)
