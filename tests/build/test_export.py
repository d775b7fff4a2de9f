"""What `export` writes, started by the programs that clusters start it with, as ordinary users."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from engines import require, require_root
from kiln_runs import Kiln, file_sha256, folder, kill, output

from torchkiln.files import sha256_of
from torchkiln.image_reader import read_layout
from torchkiln.listing import DIRECTORY, FILE, SYMLINK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_USER: Final = 1000
_ASK: Final = """\
import json, os, sys, torch
print(json.dumps({"torch": torch.__version__, "uid": os.getuid(), "cwd": os.getcwd(),
    "argv": sys.argv[1:], "env": dict(os.environ)}))
"""
_WORDS: Final = ("two words", "$HOME")
Row = tuple[str, int, str]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder for exports; an ordinary user may write there too."""
    with folder() as made:
        made.chmod(0o1777)
        yield made


@pytest.fixture(scope="module")
def exported(
    kiln: Kiln, built: Callable[[str], dict[str, Any]], place: Path
) -> Callable[[str], Path]:
    """A function that gives the CPU image in a format, exported once."""

    @cache
    def export(name: str) -> Path:
        built("cpu")
        path = place / f"cpu.{name}"
        done = kiln("export", "--cpu", "--format", name, "--output", str(path))
        assert done.returncode == 0, done.stderr
        assert f"are needed in {place}" in done.stderr
        return path

    return export


@pytest.fixture
def runtime(cpu: dict[str, Any]) -> dict[str, Any]:
    """What the OCI config says of processes."""
    layout = Path(cpu["layout"])
    manifest = json.loads((layout / "blobs" / cpu["digest"].replace(":", "/")).read_bytes())
    blob = layout / "blobs" / manifest["config"]["digest"].replace(":", "/")
    config: dict[str, Any] = json.loads(blob.read_bytes())["config"]
    return config


@pytest.fixture(scope="module")
def layers(built: Callable[[str], dict[str, Any]]) -> dict[str, Row]:
    """Kind, mode and content of each path of the image's layers, by their tars."""
    return {
        member.path: (member.kind, member.mode, member.sha256 or member.target)
        for layer in read_layout(Path(built("cpu")["layout"])).layers
        for member in layer.members
    }


def user(*command: str, env: Mapping[str, str]) -> str:
    """Run a command as an ordinary user and return what it prints."""
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = {"user": _USER, "group": _USER, "extra_groups": []}
    variables = {"PATH": os.environ["PATH"], "USER": "someone", **env}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False, **account
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_answer(answer: str, runtime: Mapping[str, Any], *, but: tuple[str, ...] = ()) -> None:
    """See that the image's environment reached a process, `but` for what is the caller's own."""
    found: dict[str, Any] = json.loads(answer)
    expected = dict(text.split("=", 1) for text in runtime["Env"] if text.split("=")[0] not in but)
    assert found["env"] | expected == found["env"]
    assert found["torch"].startswith(expected["PYTORCH_VERSION"])
    assert found["argv"] == list(_WORDS)
    assert found["uid"] != 0


def described(tree: Path) -> dict[str, Row]:
    """Return the same of a folder."""
    found = {}
    for parent, names, files in os.walk(tree):
        for path in (Path(parent, name) for name in (*names, *files)):
            status = path.lstat()
            if path.is_symlink():
                row = (SYMLINK, 0o777, str(path.readlink()))
            elif stat.S_ISDIR(status.st_mode):
                row = (DIRECTORY, stat.S_IMODE(status.st_mode), "")
            else:
                row = (FILE, stat.S_IMODE(status.st_mode), file_sha256(path))
            found[str(path.relative_to(tree))] = row
    return found


def check_tree(tree: Path, layers: Mapping[str, Row]) -> None:
    """See that a folder is the image, with what the runtimes' files add and replace."""
    found = described(tree)
    added = found.keys() - layers.keys()
    assert {path.split("/")[0] for path in added} == {".singularity.d", "ch", "etc", "mnt"}
    assert {"etc/rc", "etc/rc.local", "etc/fstab"} == {p for p in added if p.startswith("etc/")}
    assert layers.keys() <= found.keys()
    assert ["etc/environment"] == [path for path, row in layers.items() if found[path] != row]


@pytest.mark.slow
def test_the_kernel_mounts_the_squashfs_and_finds_the_image(
    exported: Callable[[str], Path], layers: dict[str, Row], scratch: Path
) -> None:
    require("mount", "umount")
    require_root("mounting a squashfs")
    if not Path("/dev/loop-control").exists():
        pytest.skip("no loop devices here")
    squashfs = exported("squashfs")
    output("mount", "-t", "squashfs", "-o", "loop,ro", str(squashfs), str(scratch))
    try:
        check_tree(scratch, layers)
    finally:
        output("umount", str(scratch))


def test_squashfs_tools_find_files_of_root_and_one_time_alone(
    exported: Callable[[str], Path],
) -> None:
    require("unsquashfs")
    listed = output("unsquashfs", "-UTC", "-lln", str(exported("squashfs"))).splitlines()
    rows = [line.split() for line in listed if line[:1] in {"-", "d", "l"}]

    assert len(rows) > 10_000
    assert {row[1] for row in rows} == {"0/0"}
    assert {tuple(row[3:5]) for row in rows} == {("1980-01-01", "00:00")}


@pytest.mark.slow
def test_the_folder_is_the_image_and_shares_no_file_with_the_store(
    exported: Callable[[str], Path], layers: dict[str, Row]
) -> None:
    tree = exported("rootfs")

    check_tree(tree, layers)
    files = [path.lstat() for path in tree.rglob("*") if not path.is_dir()]
    assert {status.st_nlink for status in files} == {1}


def test_a_killed_export_leaves_no_name_and_the_next_one_is_the_same_everywhere(
    exported: Callable[[str], Path], kiln: Kiln, scratch: Path
) -> None:
    """In another folder, zone, locale and umask, and on one core."""
    target = scratch / "again.sqsh"
    words = ("export", "--cpu", "--format", "squashfs", "--output", str(target))
    process = kiln.start(*words)
    while process.poll() is None and not sum(p.stat().st_size > 1 << 24 for p in scratch.iterdir()):
        time.sleep(0.02)
    kill(process)
    assert [True] == [path.name.startswith(".again.sqsh.") for path in scratch.iterdir()]

    elsewhere = Kiln(
        home=kiln.home,
        prefix=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))),
        umask=0o077,
        env={"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "7"},
    )
    done = elsewhere(*words)

    assert done.returncode == 0, done.stderr
    assert [target] == list(scratch.iterdir())
    assert file_sha256(target) == file_sha256(exported("squashfs"))


def test_a_sif_is_the_squashfs_with_a_header(exported: Callable[[str], Path]) -> None:
    sif, squashfs = exported("sif"), exported("squashfs")
    with sif.open("rb") as stream:
        stream.seek(sif.stat().st_size - squashfs.stat().st_size)
        assert stream.tell() % 4096 == 0
        assert sha256_of(stream) == file_sha256(squashfs)


def test_apptainer_reads_the_sif(exported: Callable[[str], Path], runtime: dict[str, Any]) -> None:
    require("apptainer")
    listed = output("apptainer", "sif", "list", str(exported("sif")))
    labels = json.loads(output("apptainer", "inspect", "--json", "--labels", str(exported("sif"))))

    assert "FS (Squashfs/*System/amd64)" in listed
    assert labels["data"]["attributes"]["labels"] == runtime["Labels"]


@pytest.mark.parametrize("name", ["sif", pytest.param("squashfs", marks=pytest.mark.slow)])
def test_apptainer_starts_it(
    exported: Callable[[str], Path], runtime: dict[str, Any], name: str
) -> None:
    require("apptainer")
    command = ("apptainer", "run", "--no-home", str(exported(name)), "python", "-c", _ASK, *_WORDS)

    check_answer(output(*command), runtime, but=("HOME",))


def test_charliecloud_runs_the_smoke_suite_as_an_ordinary_user(
    exported: Callable[[str], Path], runtime: dict[str, Any]
) -> None:
    require("ch-run")
    run = ("ch-run", "--set-env", "--private-tmp", str(exported("rootfs")), "--")

    check_answer(user(*run, "python", "-c", _ASK, *_WORDS, env={"HOME": "/tmp"}), runtime)  # noqa: S108
    table = user(*run, "smoke", "--output", "/tmp/smoke", env={"HOME": "/tmp"})  # noqa: S108
    assert "training-learns" in table
    assert "failed" not in table


def test_enroot_starts_the_squashfs_as_it_is(
    exported: Callable[[str], Path], runtime: dict[str, Any], place: Path
) -> None:
    """`pyxis` starts it by the same two commands."""
    require("enroot")
    kinds = ("RUNTIME", "DATA", "CACHE", "TEMP", "CONFIG")
    env = {f"ENROOT_{kind}_PATH": f"{place}/enroot/{kind.lower()}" for kind in kinds}
    env |= {"HOME": str(place), "ENROOT_LOGIN_SHELL": "", "XDG_RUNTIME_DIR": str(place)}
    user("mkdir", "-p", *(env[f"ENROOT_{kind}_PATH"] for kind in kinds), env={})
    user("enroot", "create", "--name", "cpu", str(exported("squashfs")), env=env)

    answer = user("enroot", "start", "cpu", "python", "-c", _ASK, *_WORDS, env=env)

    # Debian's /etc/profile, which a login shell reads, puts other folders behind the image's.
    check_answer(answer, runtime, but=("PATH",))
    assert json.loads(answer)["cwd"] == runtime["WorkingDir"]


@pytest.mark.parametrize("name", ["oci-archive", "docker-archive"])
def test_skopeo_reads_the_archive_and_finds_the_same_layers(
    exported: Callable[[str], Path], cpu: dict[str, Any], name: str
) -> None:
    require("skopeo")
    config = json.loads(output("skopeo", "inspect", "--config", f"{name}:{exported(name)}"))

    assert config["rootfs"]["diff_ids"] == [layer["diff_id"] for layer in cpu["layers"]]
