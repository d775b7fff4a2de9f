"""Environments from a small lock of real wheels, made by the real uv."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from package_index import index, pip_wheel, wheel
from sandboxes import PYTHONPATH, needs_mounts
from servers import serving
from uv import find_uv_bin

from torchkiln.catalog import Base, Catalog, Variant
from torchkiln.environment import kernel, make, mend, reports
from torchkiln.environment.claim import claimed
from torchkiln.environment.record import LOCK_FILE, environment, read
from torchkiln.environment.wanted import Platform, resolved
from torchkiln.errors import ArchiveError, EnvError, HostError, SmokeError
from torchkiln.lockfile import (
    LockedWheel,
    VariantLock,
    dump,
    kernel_inputs,
    kernel_lock_path,
    variant_inputs,
    variant_lock_path,
)
from torchkiln.pipeline import Project
from torchkiln.store import Store

if TYPE_CHECKING:
    from torchkiln.environment.make import EnvReport

CPU = Variant(id="cpu", torch="2.13.0", cuda=None, index=None, packages=("numpy", "pip"))
CUDA = Variant(id="cu117", torch="2.0.1", cuda="11.7", index=None, packages=("numpy",))
TORCH = {"torch/__init__.py": "__version__ = '2.13.0'\n", "torch/data.txt": "weights\n"}
# Stands for the suite: it says what it was told, and fails where the environment has a file.
SUITE = """\
import json, pathlib, sys
output = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
about = json.loads(pathlib.Path(sys.argv[sys.argv.index("--image") + 1]).read_text())
passed = not (pathlib.Path(sys.prefix) / "ill").exists()
checks = [{"id": "torch", "verdict": "passed"}, {"id": "cuda-visible", "verdict": "skipped"}]
report = {"passed": passed, "checks": checks, "about": about, "isolated": sys.flags.isolated}
(output / "report.json").write_text(json.dumps(report))
print("the table")
sys.exit(not passed)
"""


def a_wheel(name: str, version: str, data: bytes | None = None, **more: object) -> LockedWheel:
    """Return a wheel that is in a lock; `STORED` has its bytes."""
    file = f"{name}-{version}-py3-none-any.whl"
    if data is None:
        file, data = wheel(name, version, **more)  # type: ignore[arg-type]
    sha256 = hashlib.sha256(data).hexdigest()
    STORED[sha256] = data
    return LockedWheel(name=name, version=version, file=file, size=len(data), sha256=sha256)


STORED: dict[str, bytes] = {}
PIP = pip_wheel()
NUMPY = a_wheel("numpy", "2.4.6", files={"numpy/__init__.py": ""})
WHEELS = (
    NUMPY,
    a_wheel("pip", PIP.name.split("-")[1], PIP.read_bytes()),
    a_wheel("torch", "2.13.0", files=TORCH),
)


# Stands for ipykernel: its `install` notes what it was told, where Jupyter's own module looks.
_INSTALL = """\
import json, os, pathlib, sys
print(sys.argv[1:])
name = sys.argv[sys.argv.index("--name") + 1]
listed = {name: {"resource_dir": "/kernels", "spec": {"argv": [sys.executable, "-m"]}}}
pathlib.Path(os.environ["JUPYTER_DATA_DIR"]).write_text(json.dumps(listed))
"""
_JUPYTER = """\
import json, os, pathlib
class KernelSpecManager:
    def get_all_specs(self):
        path = pathlib.Path(os.environ["JUPYTER_DATA_DIR"])
        return json.loads(path.read_text()) if path.exists() else {}
"""
KERNEL = a_wheel(
    "ipykernel",
    "7.0.0",
    files={
        "ipykernel/__init__.py": "",
        "ipykernel/__main__.py": _INSTALL,
        "jupyter_client/__init__.py": "",
        "jupyter_client/kernelspec.py": _JUPYTER,
    },
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with one locked variant, its wheels in the store, and a suite."""
    made = a_project(tmp_path)
    (made.root / "smoke").mkdir(parents=True)
    (made.root / "smoke/__main__.py").write_text(SUITE)
    relock(made, WHEELS)
    return made


def a_project(tmp_path: Path) -> Project:
    """Return a project with a store, both below `tmp_path`."""
    catalog = Catalog(
        base=Base(release="bookworm", python="3.11", packages=()),
        indexes={},
        variants=(CPU, CUDA),
    )
    return Project(
        root=tmp_path / "project",
        catalog=catalog,
        store=Store(tmp_path / "store"),
        environ={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )


def relock(project: Project, wheels: tuple[LockedWheel, ...], platform: str = "here") -> None:
    """Lock the variant to `wheels`, and put them into the store."""
    inputs = variant_inputs(project.catalog, CPU)
    lock = VariantLock(
        variant="cpu", inputs=inputs, python="3.11", wheels=wheels, platform=platform
    )
    path = variant_lock_path(project.root, "cpu")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(lock))
    beside = replace(lock, inputs=kernel_inputs(lock), wheels=(KERNEL,))
    kernel_lock_path(project.root, "cpu").write_text(dump(beside))
    for one in (*wheels, KERNEL):
        project.store.put(STORED[one.sha256])


def build(project: Project, path: Path, **options: object) -> EnvReport:
    return make.make(project, CPU, path, make.Options(**options))  # type: ignore[arg-type]


def site(path: Path) -> Path:
    return path / "lib/python3.11/site-packages"


def run(path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(path / "bin/python"), *words],
        env={"PATH": os.defpath, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the environment comes to lie."""
    return tmp_path / "an environment"


def test_an_environment_has_what_the_lock_has_and_was_tried(project: Project, path: Path) -> None:
    report = build(project, path)
    done = run(path, "-c", "import numpy, pip, torch; print(torch.__version__)")
    assert done.stdout == "2.13.0\n"
    assert report.made
    assert report.smoke
    assert report.smoke.document["isolated"] == 1
    assert report.smoke.document["about"]["variant"] == "cpu"
    assert report.smoke.skipped == ["cuda-visible"]
    shown = reports.made(report)
    assert "`cpu`, 4 packages" in shown
    assert "bin/activate'" in shown


def test_a_second_time_nothing_is_done(project: Project, path: Path) -> None:
    build(project, path)
    before = (site(path) / "torch/__init__.py").stat().st_mtime_ns
    again = build(project, path)
    assert not again.made
    assert again.smoke
    assert not again.smoke.fresh
    assert (site(path) / "torch/__init__.py").stat().st_mtime_ns == before


def test_a_later_pip_keeps_the_locked_torch(project: Project, path: Path, tmp_path: Path) -> None:
    build(project, path)
    name, data = wheel("torch", "2.99.0")
    (tmp_path / name).write_bytes(data)
    words = ("-m", "pip", "install", "--no-index", "--find-links", str(tmp_path))
    assert run(path, *words, "torch==2.99.0").returncode == 1
    assert run(path, *words, "--upgrade", "torch").returncode == 0
    assert mend.check(project, path).comparison.differences == ()


VISION = {"torchvision/__init__.py": "", "torchvision/version.py": "__version__ = '0.28.0+cu130'\n"}


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    """A folder with a torchvision for CUDA, as the default index has it, and one who wants it."""
    place = tmp_path / "wheels"
    place.mkdir()
    needs = ("torch==2.13.0",)
    for name, data in (
        wheel("torchvision", "0.28.0", files=VISION, requires=needs),
        wheel("timm", "1.0", requires=("torchvision",)),
    ):
        (place / name).write_bytes(data)
    return place


def for_cpus(project: Project) -> None:
    """Lock torch as the PyTorch index has it for CPUs."""
    torch = a_wheel("torch", "2.13.0+cpu", files=TORCH)
    relock(project, (*WHEELS[:2], torch))


def test_pip_and_uv_refuse_a_torchvision_of_another_build(
    project: Project, path: Path, vision: Path
) -> None:
    """Its metadata is content with this torch; the control is the same without the constraints."""
    for_cpus(project)
    build(project, path)
    source = ("--no-index", "--find-links", str(vision), "timm")
    pip = ("-m", "pip", "install", "--dry-run", *source)
    uv = f"uv pip install --dry-run --offline {shlex.join(source)}"
    script = f". {shlex.quote(str(path))}/bin/activate && {uv}"
    unheld = {"PATH": f"{Path(find_uv_bin()).parent}:{os.defpath}", "HOME": str(path.parent)}

    def by_uv(script: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", script]
        return subprocess.run(command, env=unheld, capture_output=True, text=True, check=False)

    refused, free = run(path, *pip), run(path, *pip, PIP_CONSTRAINT="/dev/null")
    assert (refused.returncode, free.returncode) == (1, 0), free.stderr
    assert "(constraint) torchvision==0.28.0+cpu" in refused.stdout + refused.stderr
    refused, free = by_uv(script), by_uv(script.replace("uv pip", "UV_CONSTRAINT=/dev/null uv pip"))
    assert (refused.returncode, free.returncode) == (1, 0), free.stderr
    assert "torchvision==0.28.0+cpu" in refused.stderr


def test_a_torchvision_of_another_build_is_a_difference_and_is_removed(
    project: Project, path: Path, vision: Path
) -> None:
    for_cpus(project)
    build(project, path)
    words = ("-m", "pip", "install", "--no-index", "--find-links", str(vision), "timm")
    assert run(path, *words, PIP_CONSTRAINT="/dev/null").returncode == 0
    found = mend.check(project, path).comparison
    assert [(one.name, one.found, one.locked) for one in found.differences] == [
        ("torchvision", "0.28.0, built for CUDA 13.0", "fails beside torch 2.13.0+cpu")
    ]
    assert found.foreign == {"timm": "1.0"}
    assert mend.repair(project, path).mended == ("torchvision",)
    after = mend.check(project, path).comparison
    assert (after.differences, after.foreign) == ((), {"timm": "1.0"})


def test_a_torchvision_of_the_same_build_is_beside_the_lock(project: Project, path: Path) -> None:
    for_cpus(project)
    build(project, path)
    (site(path) / "torchvision-0.28.0+cpu.dist-info").mkdir()
    metadata = site(path) / "torchvision-0.28.0+cpu.dist-info/METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0+cpu\n")
    found = mend.check(project, path).comparison
    assert (found.differences, found.foreign) == ((), {"torchvision": "0.28.0+cpu"})


def test_of_uv_an_environment_has_no_pip_and_names_its_constraints(
    project: Project, path: Path
) -> None:
    build(project, path, manager="uv")
    assert run(path, "-c", "import pip").returncode == 1
    script = 'source "$1/bin/activate"; echo "$UV_CONSTRAINT"; deactivate; echo "[$UV_CONSTRAINT]"'
    done = subprocess.run(
        ["bash", "-ec", script, "bash", str(path)], capture_output=True, text=True, check=True
    )
    constraints = (path / "share/torchkiln/constraints.txt").as_uri()
    assert done.stdout.splitlines() == [constraints, "[]"]


def test_settings_of_the_user_change_nothing(project: Project, path: Path, tmp_path: Path) -> None:
    bad = tmp_path / "constraints.txt"
    bad.write_text("torch==1.0\n")
    foreign = {"UV_CONSTRAINT": str(bad), "PIP_CONSTRAINT": str(bad), "PYTHONPATH": str(tmp_path)}
    foreign |= {"UV_INDEX_URL": "http://localhost:9", "UV_LINK_MODE": "symlink"}
    (tmp_path / "torch.py").write_text("raise SystemExit(3)\n")
    build(replace(project, environ={**project.environ, **foreign}), path)
    assert mend.check(project, path).comparison.differences == ()
    assert not (site(path) / "torch").is_symlink()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_not_ours_stays_as_it_is(project: Project, path: Path, kind: str) -> None:
    target = path.with_name("theirs")
    if kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("years\n")
    elif kind == "file":
        path.write_text("years\n")
    else:
        path.symlink_to(target)
    with pytest.raises(EnvError, match="there is something else at this path"):
        build(project, path, recreate=True)
    if kind == "folder":
        assert [one.name for one in path.iterdir()] == ["thesis.tex"]


def test_an_interrupted_one_is_made_anew(project: Project, path: Path) -> None:
    """What kill -9 leaves: the lock file, some of the packages, no record."""
    build(project, path)
    (path / "share/torchkiln/record.json").unlink()
    (site(path) / "torch/__init__.py").unlink()
    with pytest.raises(EnvError, match="is not finished"):
        mend.check(project, path)
    assert build(project, path).made
    assert mend.check(project, path).comparison.differences == ()


def test_two_at_once_make_one(project: Project, path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(build, project, path) for _ in range(2)]
    assert sorted(one.result().made for one in both) == [False, True]


def test_a_wheel_that_was_changed_in_the_store_is_refused_and_nothing_stays(
    project: Project, path: Path
) -> None:
    blob = project.store.blob(WHEELS[2].sha256)
    blob.chmod(0o644)
    blob.write_bytes(wheel("torch", "2.13.0", files={**TORCH, "torch/data.txt": "Weights\n"})[1])
    with pytest.raises(ArchiveError, match=r"torch-2\.13\.0") as caught:
        build(project, path)
    assert str(blob) in caught.value.hint
    assert not path.exists()


IN_SMALL_TMPFS = 'mount -t tmpfs -o size=6m none "$1" && shift && exec "$@"'


@needs_mounts
def test_on_a_full_disk_nothing_stays(project: Project, tmp_path: Path) -> None:
    """Pip alone takes more than there is; without it there is room, which is the control."""
    small = tmp_path / "small"
    small.mkdir()
    program = f"import test_environment as t; t.fill_up({str(tmp_path)!r}, {str(small)!r})"
    command = ["unshare", "-rm", "sh", "-c", IN_SMALL_TMPFS, "sh", str(small)]
    assert project.store.root == tmp_path / "store"
    subprocess.run(
        [*command, sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        check=True,
    )


def fill_up(folder: str, small: str) -> None:
    """Make an environment that has room, and one that has none."""
    made, place = a_project(Path(folder)), Path(small)
    relock(made, (NUMPY, WHEELS[2]))
    build(made, place / "one")
    shutil.rmtree(place / "one")
    relock(made, WHEELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "TREE_GROWTH", 0)  # else it is refused before anything is written
        with pytest.raises(EnvError) as caught:
            build(made, place / "two")
    assert "No space left on device" in caught.value.why
    assert not [*place.iterdir()]


def test_a_bad_verdict_is_an_error_and_the_environment_stays(project: Project, path: Path) -> None:
    build(project, path)
    (path / "ill").touch()
    shutil.rmtree(path / "share/torchkiln/smoke-cpu")
    with pytest.raises(SmokeError, match="the smoke suite failed in `cpu`"):
        build(project, path)
    assert read(environment(path))


def damage_missing(path: Path) -> None:
    (site(path) / "torch/data.txt").unlink()


def damage_changed(path: Path) -> None:
    # A new file: the old one may be a hard link of the store's.
    file = site(path) / "torch/data.txt"
    file.unlink()
    file.write_text("Weights\n")


def damage_gone(path: Path) -> None:
    for one in site(path).glob("torch*"):
        shutil.rmtree(one)


def damage_version(path: Path) -> None:
    (site(path) / "torch-2.13.0.dist-info").rename(site(path) / "torch-2.12.0.dist-info")
    info = site(path) / "torch-2.12.0.dist-info"
    text = (info / "METADATA").read_text().replace("2.13.0", "2.12.0")
    (info / "METADATA").unlink()
    (info / "METADATA").write_text(text)
    record = (info / "RECORD").read_text().replace("2.13.0", "2.12.0")
    (info / "RECORD").write_text(record)


def damage_record(path: Path) -> None:
    (site(path) / "torch-2.13.0.dist-info/RECORD").unlink()


DAMAGES = {
    damage_record: "no RECORD",
    damage_missing: "missing: torch/data.txt",
    damage_changed: "changed: torch/data.txt",
    damage_gone: "missing",
    damage_version: "2.12.0",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_differs_from_the_lock_is_named_and_only_that_is_mended(
    project: Project, path: Path, damage: object
) -> None:
    build(project, path)
    other = (site(path) / "numpy/__init__.py").stat().st_ino
    extra = site(path) / "mine-1.0.dist-info"
    extra.mkdir()
    (extra / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    damage(path)  # type: ignore[operator]
    found = mend.check(project, path).comparison
    assert [(one.name, one.found) for one in found.differences] == [("torch", DAMAGES[damage])]  # type: ignore[index]
    assert found.foreign == {"mine": "1.0"}
    assert mend.repair(project, path).mended == ("torch",)
    after = mend.check(project, path)
    assert after.comparison.differences == ()
    assert after.comparison.foreign == {"mine": "1.0"}
    assert (site(path) / "numpy/__init__.py").stat().st_ino == other
    assert "is as the lock of `cpu` says" in reports.checked(after)


def test_an_environment_whose_python_is_gone_is_told(project: Project, path: Path) -> None:
    build(project, path)
    (path / "bin/python").unlink()
    (path / "bin/python").symlink_to("/nowhere/python3.11")
    for again in (lambda: build(project, path), lambda: mend.check(project, path)):
        with pytest.raises(EnvError, match="the Python of the environment is gone"):
            again()
    assert build(project, path, recreate=True).made


def test_torchkilns_own_files_are_compared_and_mended_too(project: Project, path: Path) -> None:
    build(project, path)
    (path / "pip.conf").unlink()
    found = mend.check(project, path).comparison.differences
    assert [(one.name, one.found) for one in found] == [("pip.conf", "missing")]
    assert mend.repair(project, path, with_smoke=False).smoke is None
    assert mend.check(project, path).comparison.differences == ()


def test_a_lock_that_has_changed_is_told_and_repaired_to(project: Project, path: Path) -> None:
    build(project, path)
    newer = a_wheel("numpy", "2.5.0", files={"numpy/__init__.py": ""})
    relock(project, (newer, *WHEELS[1:]))
    with pytest.raises(EnvError, match=r"numpy: 2\.4\.6, locked: 2\.5\.0"):
        build(project, path)
    assert "numpy" in mend.repair(project, path).mended
    assert not build(project, path).made


def test_what_left_the_lock_is_removed_by_a_repair(project: Project, path: Path) -> None:
    build(project, path)
    relock(project, WHEELS[1:])
    mend.repair(project, path)
    assert not (site(path) / "numpy").exists()
    assert mend.check(project, path).comparison.differences == ()


def test_another_variant_or_manager_at_the_path_is_refused(project: Project, path: Path) -> None:
    build(project, path)
    with pytest.raises(EnvError, match="it is `cpu`, for pip"):
        build(project, path, manager="uv")
    assert build(project, path, manager="uv", recreate=True).made


def test_a_folder_in_use_is_waited_for(
    project: Project, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor() as pool, claimed(environment(path)):
        later = pool.submit(build, project, path)
        with pytest.raises(TimeoutError):
            later.result(timeout=0.5)
    assert later.result().made
    assert "waiting for another" in capsys.readouterr().err
    assert (path / LOCK_FILE).exists()


def test_too_little_room_is_said_before_anything_is_installed(
    project: Project, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "TREE_GROWTH", 10**12)

    with pytest.raises(HostError, match="too little disk space") as caught:
        build(project, path)

    assert "MB are needed, " in caught.value.why
    assert not path.exists()


def test_a_hint_is_a_command_that_works(project: Project, path: Path) -> None:
    build(project, path, manager="uv")
    flags = "--cpu --manager uv --path"
    with pytest.raises(EnvError) as other:
        build(project, path)
    assert other.value.hint == f"./kiln env --cpu --path '{path}-new'"
    (path / "bin/python").unlink()
    with pytest.raises(EnvError) as gone:
        mend.check(project, path)
    assert gone.value.hint == f"./kiln env {flags} '{path}' --recreate"
    (path / "share/torchkiln/record.json").write_text("{")
    with pytest.raises(EnvError) as broken:
        build(project, path, manager="uv")
    assert broken.value.hint == f"./kiln env {flags} '{path}' --recreate"


def test_an_environment_of_conda_is_not_taken_for_an_interrupted_one(
    project: Project, path: Path
) -> None:
    own = path / "share/torchkiln"
    own.mkdir(parents=True)
    (path / LOCK_FILE).write_text("")
    (own / "conda.json").write_text("{}")

    with pytest.raises(EnvError, match="there is another environment at this path"):
        build(project, path)

    assert (own / "conda.json").exists()
    assert build(project, path, recreate=True).made
    assert not (own / "conda.json").exists()


MAC = Platform(system="Darwin", architecture="arm64", glibc=None, macos="14.0")
MAC_WHEELS = (
    wheel("torch", "2.13.0", "cp311-none-macosx_11_0_arm64", requires=["numpy"]),
    wheel("torch", "2.14.0", "cp311-none-macosx_11_0_arm64", requires=["numpy"]),
    wheel("numpy", "2.4.6", "cp311-cp311-macosx_14_0_arm64"),
    wheel("numpy", "2.5.0", "cp311-cp311-macosx_14_0_arm64"),
    (PIP.name, PIP.read_bytes()),
    (KERNEL.file, STORED[KERNEL.sha256]),
)


def test_another_platform_gets_the_same_versions_by_hash(project: Project) -> None:
    wheels = (KERNEL, *WHEELS)
    lock = VariantLock(variant="cpu", inputs="", python="3.11", wheels=wheels)
    with serving(index(*MAC_WHEELS)) as server:
        environ = {**project.environ, "PIP_INDEX_URL": f"{server.url}/simple"}
        wanted = resolved(project.catalog, CPU, lock, MAC, environ)
    assert wanted.platform == "aarch64-apple-darwin"
    assert [(one.name, one.version) for one in wanted.pins] == [
        (one.name, one.version) for one in wheels
    ]
    sha256 = hashlib.sha256(MAC_WHEELS[0][1]).hexdigest()
    assert sha256 in next(one for one in wanted.pins if one.name == "torch").hashes


def test_where_the_lock_does_not_fit_its_versions_are_resolved_and_that_is_said(
    project: Project, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, data = MAC_WHEELS[0]
    sha256 = hashlib.sha256(data).hexdigest()
    STORED[sha256] = data
    foreign = LockedWheel(name="torch", version="2.13.0", file=name, size=1, sha256=sha256)
    relock(project, (*WHEELS[:2], foreign), platform="aarch64-apple-darwin")
    files = [wheel(*one) for one in (("torch", "2.13.0"), ("torch", "2.14.0"), ("numpy", "2.4.6"))]
    with serving(index(*files, *MAC_WHEELS[-2:])) as server:
        environ = {**project.environ, "PIP_INDEX_URL": f"{server.url}/simple"}
        record = build(replace(project, environ=environ), path).record
    assert record.platform.startswith("x86_64-manylinux_2_")
    assert {pin.name: pin.version for pin in record.pins}["torch"] == "2.13.0"
    said = capsys.readouterr().err
    assert "the lock is for aarch64-apple-darwin: its versions are resolved for x86_64-" in said


def test_there_is_no_cuda_on_macos(project: Project) -> None:
    lock = VariantLock(variant="cu117", inputs="", python="3.11", wheels=WHEELS)
    with pytest.raises(EnvError, match="there is no CUDA on macOS"):
        resolved(project.catalog, CUDA, lock, MAC, project.environ)


def test_a_kernel_is_in_the_environment_and_takes_no_others_name(
    project: Project, path: Path, tmp_path: Path
) -> None:
    there = build(project, path)
    other = build(project, tmp_path / "other" / path.name)
    assert "ipykernel" in {pin.name for pin in there.record.pins}
    environ = {**project.environ, "JUPYTER_DATA_DIR": str(tmp_path / "listed.json")}
    for _ in range(2):  # its own name is no other's
        assert kernel.register(there.env, CPU, environ) == "torchkiln-an-environment"
    with pytest.raises(EnvError, match="another kernel of this name") as caught:
        kernel.register(other.env, CPU, environ)
    assert caught.value.hint == "rm -r /kernels"
    assert str(there.env.interpreter) in caught.value.why
    shutil.rmtree(path)
    assert kernel.register(other.env, CPU, environ) == "torchkiln-an-environment"


def test_a_folder_that_cannot_be_written_is_named_where_a_kernel_is_to_go(
    project: Project, path: Path, tmp_path: Path
) -> None:
    env = build(project, path).env
    environ = {**project.environ, "JUPYTER_DATA_DIR": str(tmp_path)}
    with pytest.raises(EnvError, match="cannot be put into your Jupyter's list") as caught:
        kernel.register(env, CPU, environ)
    assert "Is a directory" in caught.value.why
