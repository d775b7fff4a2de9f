from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sandboxes import image, needs_sandbox

from torchkiln.errors import SandboxError
from torchkiln.run import RunOptions, parse_mount, run, sandbox
from torchkiln.sandbox import Mount


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder to mount, below the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_folder_goes_to_the_workspace_read_only_by_default(data: Path) -> None:
    expected = Mount(source=data, target="/workspace")

    assert [expected] * 3 == [parse_mount(text) for text in ("data", "data:ro", str(data))]


@pytest.mark.parametrize(
    ("text", "target", "writable"),
    [
        ("data:/d", "/d", False),
        ("data:/d:ro", "/d", False),
        ("data:/d:rw", "/d", True),
        ("data:rw", "/workspace", True),
    ],
)
def test_mount_says_where_and_whether_it_may_be_written(
    data: Path, text: str, target: str, *, writable: bool
) -> None:
    assert Mount(source=data, target=target, writable=writable) == parse_mount(text)


@pytest.mark.parametrize(
    "text",
    ["data:d", "data:/d:/e", "data:/d:rw:ro", "data:/../etc", "data:", "", ":/d", "data:/d:xx"],
)
@pytest.mark.usefixtures("data")
def test_what_is_no_mount_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(SandboxError, match="no mount") as caught:
        parse_mount(text)
    assert "HOST[:TARGET][:rw]" in caught.value.hint


@pytest.mark.usefixtures("data")
def test_folder_that_is_not_there_is_refused_by_its_path() -> None:
    with pytest.raises(SandboxError, match="nothing to mount: /") as caught:
        parse_mount("gone:/d")
    assert caught.value.hint.startswith("mkdir")


def test_mount_below_the_images_own_folders_is_refused_where_there_is_no_place(
    tmp_path: Path, data: Path
) -> None:
    store, made = image(tmp_path)

    with pytest.raises(SandboxError, match="no such place"):
        sandbox(store, made, RunOptions(mounts=(f"{data}:/usr/new",)))


@pytest.mark.parametrize("target", ["/data", "/data/deep", "/tmp/x", "/workspace", "/usr/lib"])  # noqa: S108
def test_mount_at_a_new_folder_or_over_one_that_is_there_is_fine(
    tmp_path: Path, data: Path, target: str
) -> None:
    store, made = image(tmp_path)
    found = sandbox(store, made, RunOptions(mounts=(f"{data}:{target}",))).mounts

    assert (Mount(source=data, target=target),) == found


def test_image_runs_as_it_says_unless_told_otherwise(tmp_path: Path) -> None:
    store, made = image(tmp_path)
    found = sandbox(store, made, RunOptions())

    assert (1000, "/workspace", made.environment) == (found.uid, found.cwd, found.env)
    assert not found.network
    assert not found.writable
    assert 7 == sandbox(store, made, RunOptions(uid=7)).uid


def test_network_brings_the_hosts_names_and_comes_only_when_asked(tmp_path: Path) -> None:
    store, made = image(tmp_path)
    found = sandbox(store, made, RunOptions(network=True))
    targets = {mount.target for mount in found.mounts}

    assert found.network
    assert {name for name in ("/etc/hosts", "/etc/resolv.conf") if Path(name).exists()} == targets


def test_gpus_are_passed_to_images_for_cuda_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Mount(source=Path("/dev/nvidia0"), target="/dev/nvidia0", device=True)
    monkeypatch.setattr("torchkiln.run.gpu_mounts", lambda: (gpu,))

    assert () == sandbox(*image(tmp_path), RunOptions()).mounts
    assert (gpu,) == sandbox(*image(tmp_path, cuda=True), RunOptions()).mounts


@needs_sandbox
def test_command_runs_through_the_entry_point_with_its_exit_code(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, made = image(tmp_path)
    # The host's programs, because this image has none.
    mounts = ("/usr:/usr", f"{data}:/data:rw")
    options = RunOptions(mounts=mounts)
    code = run(store, made, ["sh", "-c", "id -u; pwd; echo made > /data/x; exit 5"], options)

    assert (5, "1000\n/workspace\n") == (code, capfd.readouterr().out)
    assert "made\n" == (data / "x").read_text()


@needs_sandbox
def test_store_cannot_be_changed_from_inside(tmp_path: Path) -> None:
    store, made = image(tmp_path)
    options = RunOptions(mounts=("/usr:/usr",), uid=0)
    script = "echo evil >> /opt/torchkiln/bin/entrypoint; rm -f /opt/torchkiln/bin/entrypoint"
    process = sandbox(store, made, options).run(["sh", "-c", script], stderr=subprocess.DEVNULL)

    assert 0 != process.returncode
    assert [b'#!/bin/sh\nexec "$@"\n'] * 2 == [
        path.read_bytes() for path in store.root.rglob("entrypoint")
    ]
