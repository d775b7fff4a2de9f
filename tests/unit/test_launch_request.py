from __future__ import annotations

import os
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from launches import DIGEST, IMAGE

from torchkiln.errors import LaunchError
from torchkiln.launch import Launch, LaunchMount
from torchkiln.launch_request import LaunchRequest, read

if TYPE_CHECKING:
    from pathlib import Path

ASKED = LaunchRequest(kind="kubernetes", command=("python", "x.py"), image=IMAGE)
SLURM = replace(ASKED, kind="slurm-pyxis")


def faults(request: LaunchRequest, **changes: Any) -> list[str]:  # noqa: ANN401
    with pytest.raises(LaunchError) as caught:
        read(replace(request, **changes))
    return caught.value.why.splitlines()


def asked(request: LaunchRequest = ASKED, **changes: Any) -> Launch:  # noqa: ANN401
    return read(replace(request, **changes))


def test_what_is_not_said_has_a_default_that_fits_the_rest() -> None:
    plain, gpus = asked(), asked(gpus="8", memory="1T")

    assert (1, 0, 1, 4) == (plain.nodes, plain.gpus, plain.processes, plain.cpus)
    assert (16 << 10, 4 << 10, 0) == (plain.memory, plain.shm, plain.seconds)
    assert (8, 32, 256 << 10) == (gpus.processes, gpus.cpus, gpus.shm)


def test_an_image_for_cuda_gets_a_gpu_unless_told_otherwise() -> None:
    assert (1, 4, 0) == (
        asked(cuda=True).gpus,
        asked(cuda=True, gpus="4").gpus,
        asked(cuda=False).gpus,
    )


@pytest.mark.parametrize("text", ["64G", "64g", "64GB", "64Gi", "64GiB", "65536M"])
def test_sizes_are_in_powers_of_1024_however_they_are_written(text: str) -> None:
    assert 65536 == asked(memory=text).memory


@pytest.mark.parametrize(
    ("text", "seconds"), [("4:00:00", 14400), ("0:00:05", 5), ("2-01:00:00", 176400)]
)
def test_times_are_written_as_for_slurm(text: str, seconds: int) -> None:
    assert seconds == asked(time=text).seconds


def test_a_tag_is_left_out_where_there_is_a_digest() -> None:
    tagged = f"registry.example:5000/team/torch:2.1@{DIGEST}"

    assert IMAGE == asked(image=tagged).image


def test_a_variant_is_named_by_where_it_was_pushed_and_its_digest() -> None:
    command = ("python", "-c", "1")
    request = replace(ASKED, command=command, image="", repository="r.example/torch", cuda=False)

    assert f"r.example/torch@{DIGEST}" == asked(request, digest=DIGEST[7:]).image


def test_docker_may_take_an_image_that_it_has_by_its_id() -> None:
    assert DIGEST == asked(kind="docker", image=DIGEST).image
    assert faults(ASKED, image=DIGEST)


def test_mounts_are_read_only_unless_told_otherwise() -> None:
    mounts = ("data:/data", "home:/workspace:rw")

    assert asked(mounts=mounts).mounts == (
        LaunchMount(source="data", target="/data"),
        LaunchMount(source="home", target="/workspace", writable=True),
    )


@pytest.mark.parametrize(
    ("request_", "changes", "fault"),
    [
        (ASKED, {"image": "r.example/torch:1"}, "names no digest"),
        (ASKED, {"image": f"team/torch@{DIGEST}"}, "expected REGISTRY/REPOSITORY@sha256:"),
        (ASKED, {"image": f"R.example/To rch@{DIGEST}"}, "expected REGISTRY/REPOSITORY@sha256:"),
        (ASKED, {"image": f"r.example/torch@{DIGEST[:-1]}"}, "expected REGISTRY/REPOSITORY"),
        (ASKED, {"image": ""}, "give one of `--image`, `--repository`"),
        (SLURM, {"file": "x.sqsh"}, "give one of `--image`, `--repository`, `--file`"),
        (ASKED, {"image": "", "file": "x.sif"}, "kubernetes starts images of a registry"),
        (ASKED, {"image": "", "repository": "r.example/x"}, "add `--cpu` or `--cuda 117`"),
        (SLURM, {"image": "", "file": "a\nb.sqsh"}, "cannot be printed"),
        (ASKED, {"nodes": "0"}, "`--nodes 0`: at least 1"),
        (ASKED, {"nodes": "two"}, "`--nodes two`: expected a number"),
        (ASKED, {"nodes": "-1"}, "expected a number"),
        (ASKED, {"processes": "0"}, "`--processes 0`: at least 1"),
        (ASKED, {"cpus": "0"}, "`--cpus 0`: fewer"),
        (ASKED, {"gpus": "8", "cpus": "4"}, "fewer than the 8 processes"),
        (ASKED, {"gpus": "2", "processes": "4"}, "more than the 2 GPUs"),
        (ASKED, {"gpus": "1", "cuda": False}, "a CPU image uses none"),
        (ASKED, {"gpus": "0", "cuda": True}, "an image for CUDA needs one"),
        (ASKED, {"memory": "64"}, "as in `--memory 16G`"),
        (ASKED, {"memory": "0G"}, "as in `--memory 16G`"),
        (ASKED, {"memory": "4G", "shm": "4G"}, "no memory is left"),
        (SLURM, {"shm": "4G"}, "the node's own /dev/shm"),
        (ASKED, {"time": "4h"}, "as in `--time 4:00:00`"),
        (ASKED, {"time": "0:00:00"}, "no time at all"),
        (replace(ASKED, kind="docker"), {"time": "4:00:00"}, "Docker has no time limit"),
        (ASKED, {"name": "My_Job"}, "not a name for jobs and pods"),
        (ASKED, {"name": "a" * 54}, "not a name for jobs and pods"),
        (ASKED, {"name": "a-"}, "not a name for jobs and pods"),
        (SLURM, {"name": "x\n#SBATCH --uid=0"}, "not a name for jobs and pods"),
        (ASKED, {"command": ()}, "no command"),
        (ASKED, {"command": ("",)}, "first word is empty"),
        (ASKED, {"command": ("torchrun", "x.py")}, "leave torchrun and its options out"),
        (ASKED, {"command": ("python", "\udcff")}, "no UTF-8"),
        (ASKED, {"mounts": ("data",)}, "expected SOURCE:/TARGET[:rw]"),
        (ASKED, {"mounts": ("data:/d:rx",)}, "expected SOURCE:/TARGET[:rw]"),
        (ASKED, {"mounts": ("/data:/d",)}, "name of a PersistentVolumeClaim"),
        (ASKED, {"mounts": ("data:/d/../etc",)}, "a plain path"),
        (SLURM, {"mounts": ("data:/d",)}, "must be a full path"),
        (SLURM, {"mounts": ("/a b:/d",)}, "no spaces"),
        (SLURM, {"mounts": ("/a,b:/d",)}, "beyond the syntax of mounts"),
        (replace(SLURM, kind="slurm-charliecloud"), {"mounts": ("/a:/d:rw",)}, "take /workspace"),
        (replace(SLURM, kind="slurm-charliecloud"), {"mounts": ("/a:/mnt",)}, "/a:/mnt:rw"),
    ],
)
def test_what_no_cluster_can_run_is_one_fault(
    request_: LaunchRequest, changes: dict[str, Any], fault: str
) -> None:
    (found,) = faults(request_, **changes)

    assert fault in found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a program, a package, and what must stay at home."""
    for path, data in {
        "train.py": b"import model",
        "it's.py": b"",
        "model/__init__.py": "é\r\n".encode(),
        "model/deep/data.json": b"{}",
        "model/__pycache__/x.pyc": b"\xff",
        ".git/config": b"token",
        ".env": b"secret",
        "weights/w.bin": b"\xff\xfe",
        "large/a": b"a" * 600_000,
        "large/b": b"b" * 600_000,
        "empty/.hidden": b"",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


def test_code_is_brought_below_its_path_but_for_hidden_files_and_bytecode(folder: Path) -> None:
    command = ("python", "train.py")
    launch = asked(folder=folder, command=command, code=("./train.py", "model", "train.py"))

    assert {
        "train.py": "import model",
        "model/__init__.py": "é\r\n",
        "model/deep/data.json": "{}",
    } == {one.path: one.text for one in launch.code}


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (("none.py",), "`--code none.py`: not found"),
        (("empty",), "a folder without files"),
        (("../x",), "not below this folder"),
        (("/etc/hosts",), "not below this folder"),
        (("weights",), "not a text file (UTF-8): weights/w.bin"),
        (("large",), "larger than 1 MiB"),
        (("large/a", "large/b"), "larger than 1 MiB together"),
    ],
)
def test_code_that_no_pod_could_have_is_a_fault(
    folder: Path, names: tuple[str, ...], fault: str
) -> None:
    (found,) = faults(ASKED, folder=folder, code=names)

    assert fault in found


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("../secret", "a link that leads out of this folder: code/link"),
        ("../model", "a link to a folder: code/link"),
        ("nowhere", "not a file: code/link"),
    ],
)
def test_code_behind_a_link_is_a_fault(tmp_path: Path, target: str, fault: str) -> None:
    """A secret would be in the manifest, a folder would be missing without a word."""
    here = tmp_path / "here"
    (here / "code").mkdir(parents=True)
    (here / "model").mkdir()
    (tmp_path / "secret").write_text("x")
    name = f"../{target}" if target == "../secret" else target
    (here / "code/link").symlink_to(name)

    (found,) = faults(ASKED, folder=here, code=("code",))

    assert fault in found


def test_code_that_is_a_pipe_is_a_fault(tmp_path: Path) -> None:
    """Who reads one waits."""
    (tmp_path / "code").mkdir()
    os.mkfifo(tmp_path / "code/pipe")

    (found,) = faults(ASKED, folder=tmp_path, code=("code",))

    assert "not a file: code/pipe" in found


def test_too_many_files_are_a_fault(tmp_path: Path) -> None:
    for number in range(501):
        (tmp_path / str(number)).touch()
    (found,) = faults(ASKED, folder=tmp_path, code=(".",))

    assert "more than 500 files" in found


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("python", "train.py", "--lr", "1"), ["train.py"]),
        (("python", "./train.py"), ["./train.py"]),
        (("python", "-u", "train.py"), ["train.py"]),
        (("env", "A=b", "bash", "it's.py", "train.py"), ["it's.py", "train.py"]),
        (("python", "-m", "model.sub"), ["model"]),
        (("python", "-m", "train"), ["train.py"]),
    ],
)
def test_a_pod_that_would_not_find_its_program_is_refused_with_the_command_that_brings_it(
    folder: Path, command: tuple[str, ...], named: list[str]
) -> None:
    typed = ("launch", "kubernetes", "--name", "a b", "--", *command)
    request = replace(ASKED, folder=folder, command=command, typed=typed)
    with pytest.raises(LaunchError) as caught:
        read(request)
    words = shlex.split(caught.value.hint)
    code = tuple(words[at + 1] for at, word in enumerate(words) if word == "--code")

    assert [line.split("`")[1] for line in caught.value.why.splitlines()] == named
    assert ["./kiln", "launch", "kubernetes", "--name", "a b", "--code"] == words[:6]
    assert ["--", *command] == words[words.index("--") :]
    assert read(replace(request, code=code)).code


def test_what_lies_in_the_image_or_in_a_claim_needs_no_code(folder: Path) -> None:
    train = ("python", "train.py")

    assert asked(folder=folder, command=("python", f"{folder}/train.py"))
    assert asked(folder=folder, command=("python", "other.py"))
    assert asked(folder=folder, command=("python", "-m", "torch.utils.collect_env"))
    assert asked(folder=folder, command=("python", "-c", "x" * 5000 + "\0"))
    assert asked(folder=folder, command=train, mounts=("code:/workspace",))


def test_a_program_that_is_nowhere_is_a_fault(folder: Path) -> None:
    """A variant's own image has no programs, what another has is not known."""
    own = replace(ASKED, image="", repository="r.example/x", digest=DIGEST[7:], cuda=False)
    (found,) = faults(own, folder=folder, command=("python", "trian.py"))

    assert "`trian.py`: not found in this folder" == found
    assert asked(own, folder=folder, command=("python", "/opt/trian.py"))


def test_code_takes_the_whole_workspace(folder: Path) -> None:
    (found,) = faults(ASKED, folder=folder, code=("model",), mounts=("data:/workspace/data",))

    assert "`--code` takes all of /workspace" in found


def test_other_kinds_mount_the_folder_and_bring_no_code(folder: Path) -> None:
    (found,) = faults(SLURM, folder=folder, code=("train.py",))

    assert "slurm-pyxis mounts the folder of the recipe" in found
    assert asked(SLURM, folder=folder, command=("python", "train.py"))


def test_all_faults_are_told_at_once() -> None:
    found = faults(
        ASKED, image="torch:1", nodes="0", memory="x", name="A", mounts=("x",), command=()
    )

    assert 6 == len(found)


def test_an_unknown_kind_is_told_the_nearest() -> None:
    with pytest.raises(LaunchError, match="did you mean `slurm-pyxis`") as caught:
        asked(kind="slurm-pyxi")
    assert "kubernetes" in caught.value.why
