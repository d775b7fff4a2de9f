"""Recipes as they are meant to be used: by Slurm, Charliecloud, Apptainer and Docker."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from local_slurm import Slurm, slurm

from torchkiln import catalog, pipeline
from torchkiln.engine.connection import connect
from torchkiln.engine.load import load
from torchkiln.launch import Kind, Launch, recipe
from torchkiln.launch_request import LaunchRequest, read
from torchkiln.store import remove_tree
from torchkiln.tree import image_tree, link_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchkiln.image import Image
    from torchkiln.pipeline import Project

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = "r.example/torch@sha256:" + "0" * 64
# Each process adds its rank + 1, so two of them must agree on 3.
ADDS = """\
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
value = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(value)
open(f"rank{dist.get_rank()}", "w").write(" ".join([
    str(int(value)), str(dist.get_world_size()), str(torch.get_num_threads()),
    os.environ["GROUP_RANK"], os.environ["HOME"], str(os.environ.get("PYTHONPATH")),
]))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder that every user may enter, gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="torchkiln-"))
    made.chmod(0o755)
    yield made
    remove_tree(made)


@pytest.fixture(scope="module")
def cluster(scratch: Path) -> Iterator[Slurm]:
    """A Slurm of two nodes."""
    folder = scratch / "slurm"
    folder.mkdir()
    with slurm(folder) as made:
        yield made


@pytest.fixture(scope="module")
def project(home: Path, built: Callable[[str], dict[str, Any]]) -> Project:
    """The project with the store of the tests, which has the CPU image."""
    assert built("cpu")["digest"]
    return pipeline.open_project(PROJECT, {**os.environ, "TORCHKILN_HOME": str(home)})


@pytest.fixture(scope="module")
def image(project: Project) -> Image:
    """The CPU image."""
    variant = catalog.select(project.catalog, cpu=True, cuda=None)
    return pipeline.built_image(project, variant)


@pytest.fixture
def work(scratch: Path) -> Iterator[Path]:
    """A folder with the program, in which jobs run."""
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="it's "))
    folder.chmod(0o777)  # the jobs are others'
    (folder / "adds.py").write_text(ADDS)
    yield folder
    remove_tree(folder)


@pytest.fixture(scope="module")
def tree(project: Project, image: Image, scratch: Path) -> Path:
    """The image unpacked as ch-convert leaves it: its environment is in a file."""
    made = scratch / "tree"
    made.mkdir()
    link_tree(str(image_tree(project.store, image.layers)), str(made))
    (made / "ch").mkdir()
    lines = [f"{name}={value}\n" for name, value in image.environment.items()]
    (made / "ch/environment").write_text("".join(lines))
    return made


def asked(
    kind: Kind,
    *,
    image: str = "",
    file: str = "",
    nodes: int = 2,
    processes: int = 1,
    time: str = "",
) -> Launch:
    request = LaunchRequest(
        kind=kind,
        command=("python", "adds.py"),
        image=image,
        file=file,
        nodes=str(nodes),
        processes=str(processes),
        cpus=str(processes),
        memory="2G",
        time=time,
    )
    return read(request)


def script(work: Path, launch: Launch) -> Path:
    path = work / "job.sh"
    path.write_text(recipe(PROJECT, launch))
    return path


def sums(work: Path) -> list[list[str]]:
    """Return what each process wrote, in the order of ranks."""
    return [path.read_text().split() for path in sorted(work.glob("rank*"))]


def expected(nodes: int, processes: int = 1) -> list[list[str]]:
    """Return what each process writes: sum, number, threads, node, home, what came in."""
    number = nodes * processes
    total = str(number * (number + 1) // 2)
    groups = [str(rank // processes) for rank in range(number)]
    return [[total, str(number), "1", group, "/tmp", "None"] for group in groups]  # noqa: S108


@pytest.mark.parametrize("kind", ["slurm-pyxis", "slurm-apptainer", "slurm-charliecloud"])
def test_slurm_accepts_every_line_of_a_script(kind: Kind, cluster: Slurm, work: Path) -> None:
    path = script(work, asked(kind, image=IMAGE, time="0:10:00"))
    done = cluster("sbatch", "--test-only", path.name, cwd=work)

    assert 0 == done.returncode, done.stderr
    assert "using 2 processors on nodes" in done.stderr


def test_slurm_refuses_what_is_no_line_for_it(cluster: Slurm, work: Path) -> None:
    path = script(work, asked("slurm-pyxis", image=IMAGE, time="0:10:00"))
    path.write_text(path.read_text().replace("--time=0-", "--time=x-"))

    assert cluster("sbatch", "--test-only", path.name, cwd=work).returncode


def test_two_nodes_of_slurm_add_up_in_charliecloud(cluster: Slurm, work: Path, tree: Path) -> None:
    if not shutil.which("ch-run"):
        pytest.skip("not installed: ch-run")
    code, log = cluster.run(script(work, asked("slurm-charliecloud", file=str(tree))))

    assert 0 == code, log
    assert expected(2) == sums(work)


def test_two_nodes_of_slurm_add_up_in_apptainer(
    cluster: Slurm, work: Path, image: Image, scratch: Path
) -> None:
    if not shutil.which("apptainer"):
        pytest.skip("not installed: apptainer")
    sif = scratch / "x.sif"
    command = ["apptainer", "build", str(sif), f"oci:{image.layout}"]
    subprocess.run(command, check=True, capture_output=True)
    code, log = cluster.run(script(work, asked("slurm-apptainer", file=str(sif))))

    assert 0 == code, log
    assert expected(2) == sums(work)


@pytest.fixture(scope="module")
def docker(project: Project, image: Image) -> str:
    """The CPU image's id in Docker."""
    if not shutil.which("docker"):
        pytest.skip("not installed: docker")
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers")
    with connect("docker", project.environ) as engine:
        return load(engine, project.store, image).id


def test_docker_runs_one_node_and_needs_no_network(docker: str, work: Path) -> None:
    text = script(work, asked("docker", image=docker, nodes=1, processes=2)).read_text()
    text = text.replace("docker run", "docker run --network none")
    done = subprocess.run(
        ["bash", "-c", text], cwd=work, capture_output=True, text=True, timeout=200, check=False
    )

    assert 0 == done.returncode, done.stderr
    assert expected(1, 2) == sums(work)


@pytest.mark.slow
def test_docker_runs_two_nodes_that_meet_at_the_first(docker: str, work: Path) -> None:
    text = script(work, asked("docker", image=docker)).read_text()
    # Two nodes with one engine, in which no two containers have one name.
    names = [f"torchkiln-test-{os.getpid()}-{number}" for number in range(2)]
    running = [
        subprocess.Popen(
            ["bash", "-c", text.replace("--name torchkiln", f"--name {name}")],
            cwd=work,
            env={**os.environ, "RENDEZVOUS_HOST": "localhost"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        done = [(one.communicate(timeout=200)[1], one.returncode) for one in running]
    finally:
        subprocess.run(["docker", "rm", "--force", *names], capture_output=True, check=False)

    assert [0, 0] == [code for _, code in done], done
    assert expected(2) == sums(work)
