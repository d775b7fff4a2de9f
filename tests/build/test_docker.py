"""The engine `docker`: BuildKit builds the Dockerfile, and the two engines' images are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines import Dockerd, dockerds, podman, require_buildx
from kiln_runs import PROJECT, Kiln, finish, folder, free_port, identity, output, wait_for

from torchkiln.errors import DifferenceError, EngineError, SmokeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engines import Engine

PORT = free_port()
RELEASE = 23
KEPT = "kept:cpu"


@pytest.fixture(scope="module")
def docker() -> Iterator[Engine]:
    """Docker with containerd's image store, on a socket and on a port."""
    require_buildx()
    with folder() as place:
        hosts = (f"tcp://127.0.0.1:{PORT}",)
        program = dockerds(lambda version: version >= RELEASE)
        with Dockerd(folder=place, program=program, hosts=hosts).running() as engine:
            yield engine


@pytest.fixture(scope="module")
def docker_kiln(kiln: Kiln, docker: Engine) -> Kiln:
    """`./kiln` that finds this Docker."""
    return replace(kiln, env={"DOCKER_HOST": docker.command[-1]})


@pytest.fixture(scope="module")
def first_build(docker_kiln: Kiln, built: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What `build --cpu --engine docker --json` says, where nothing was built before."""
    built("cpu")
    return docker_kiln.build("--cpu", "--engine", "docker")


@pytest.fixture
def by_docker(docker: Engine, first_build: dict[str, Any]) -> dict[str, Any]:
    """The same, and the image is the one that is called torchkiln:cpu now."""
    docker("tag", first_build["digest"], KEPT)
    docker("tag", KEPT, "torchkiln:cpu")
    return first_build


def containers(engine: Engine) -> list[str]:
    return engine("ps", "--all", "--quiet").split()


def images(engine: Engine) -> set[str]:
    return set(engine("images", "--format", "{{.Repository}}:{{.Tag}}").split())


def diff_ids(document: dict[str, Any]) -> list[str]:
    return [layer["diff_id"] for layer in document["layers"]]


def test_docker_builds_the_image_and_the_suite_passes_in_it(
    docker: Engine, by_docker: dict[str, Any]
) -> None:
    report = json.loads(Path(by_docker["smoke"]["report"]).read_text())

    assert by_docker["smoke"]["passed"]
    assert report["passed"]
    assert "torchkiln:cpu" == by_docker["reference"]
    assert {"torchkiln:cpu", KEPT} == images(docker)
    assert [] == containers(docker)


def test_what_will_not_work_is_said_when_a_container_starts(
    docker: Engine, by_docker: dict[str, Any]
) -> None:
    """Docker gives 64 MB of shared memory unless it is asked for more; the command runs anyway."""
    reference = by_docker["reference"]
    told, silent = (
        subprocess.run(
            [*docker.command, "run", "--rm", *options, reference, "echo", "ran"],
            capture_output=True,
            text=True,
            check=True,
        )
        for options in ((), ("--shm-size=1g",))
    )

    assert told.stderr.splitlines()[0].startswith("torchkiln: /dev/shm has 64 MB")
    assert len(told.stderr.splitlines()) == 2
    assert ("ran\n", "ran\n", "") == (told.stdout, silent.stdout, silent.stderr)


def test_the_images_of_the_two_engines_differ_in_nothing(
    docker_kiln: Kiln, by_docker: dict[str, Any], cpu: dict[str, Any]
) -> None:
    """Content, mode, owner and links of each path, config, packages and their sizes."""
    done = docker_kiln("diff", "cpu@kiln", "cpu@docker", "--json")
    found = json.loads(done.stdout)

    assert (True, [], [], []) == tuple(
        found[name] for name in ("same", "files", "config", "packages")
    )
    assert done.returncode == 0, done.stderr
    assert found["all_paths"] > 30000
    assert found["all_packages"] > 100
    assert by_docker["digest"] != cpu["digest"], "a control: it is not kiln's image under that name"


def test_the_engines_share_the_base_and_have_a_layer_for_each_group(
    by_docker: dict[str, Any], cpu: dict[str, Any]
) -> None:
    """Beside them WORKDIR leaves a layer without a file."""
    assert diff_ids(by_docker)[0] == diff_ids(cpu)[0]
    assert len(diff_ids(by_docker)) == len(diff_ids(cpu)) + 1


def test_what_differs_is_named(docker_kiln: Kiln, docker: Engine) -> None:
    """The control of the conformance test: each kind of difference, between two small images."""
    with folder() as place:
        for name in ("same", "text", "program", "gone"):
            (place / name).write_text(f"{name}\n")
        (place / "link").symlink_to("same")
        last = "ENV LANG=C\nUSER 7\n"
        _build(docker, place, "small:one", f"FROM scratch\nCOPY . /\n{last}")
        (place / "text").write_text("other\n")
        (place / "program").chmod(0o755)
        (place / "gone").unlink()
        (place / "link").unlink()
        (place / "link").symlink_to("text")
        _build(docker, place, "small:two", "FROM scratch\nCOPY --chown=5:6 . /\nENV LANG=D\n")

    done = docker_kiln("diff", "small:one@docker", "small:two@docker", "--json")
    docker("image", "rm", "--force", "small:one", "small:two")
    found = json.loads(done.stdout)

    assert DifferenceError.exit_code == done.returncode
    fields = {(one["path"], one["field"]) for one in found["files"]}
    assert {
        ("/text", "content"),
        ("/text", "size"),
        ("/program", "mode"),
        ("/gone", "presence"),
        ("/link", "target"),
        ("/same", "owner"),
    } <= fields
    assert not {("/same", field) for field in ("content", "mode", "size")} & fields
    assert [("Env.LANG", "C", "D"), ("User", "7", "absent")] == [
        (one["field"], one["first"], one["second"]) for one in found["config"]
    ]


def _build(engine: Engine, context: Path, name: str, dockerfile: str) -> None:
    """Build and load an image; the Dockerfile is no part of it."""
    with folder() as place:
        (place / "Dockerfile").write_text(dockerfile)
        file = ("--file", str(place / "Dockerfile"))
        engine("buildx", "build", "--load", "--tag", name, *file, str(context))


@pytest.mark.slow
def test_two_builds_in_one_engine_give_the_same_layers(
    docker_kiln: Kiln, docker: Engine, by_docker: dict[str, Any]
) -> None:
    """Nothing of the first is left: neither the image nor what BuildKit kept of its steps."""
    docker("image", "rm", "--force", "torchkiln:cpu", KEPT)
    docker("builder", "prune", "--all", "--force")

    again = docker_kiln.build("--cpu", "--engine", "docker", "--no-smoke")
    docker("tag", "torchkiln:cpu", KEPT)

    assert again["seconds"]["build"] > 5, "a control: it was built, not found"
    assert diff_ids(by_docker) == diff_ids(again)


@pytest.mark.slow
def test_two_engines_give_the_same_layers(
    kiln: Kiln, by_docker: dict[str, Any], scratch: Path
) -> None:
    """The second has Docker's own store of images, which reads no layouts."""
    program = dockerds(lambda version: version >= RELEASE)
    with Dockerd(folder=scratch, containerd=False, program=program).running() as engine:
        other = replace(kiln, env={"DOCKER_HOST": engine.command[-1]})
        document = other.build("--cpu", "--engine", "docker", "--no-smoke")

        assert document["seconds"]["build"] > 5, "a control: it was built, not found"
        assert diff_ids(by_docker) == diff_ids(document)
        assert {"torchkiln:cpu", "torchkiln:debian-bookworm"} == images(engine)


def test_testinfra_passes_in_dockers_containers(
    docker_kiln: Kiln, docker: Engine, by_docker: dict[str, Any]
) -> None:
    assert by_docker
    done = docker_kiln("verify", "--cpu", "--engine", "docker")

    assert done.returncode == 0, done.stderr
    assert " 0 failed, 8 skipped " in done.stdout
    assert [] == containers(docker)


def test_an_image_that_breaks_its_promises_fails_in_dockers_containers(
    docker_kiln: Kiln, docker: Engine, by_docker: dict[str, Any]
) -> None:
    """The control: the suite and testinfra judge what is in the engine, and containers go."""
    assert by_docker
    change = "RUN --network=none sed -i s/2.13.0/2.12.0/ /opt/torchkiln/image.json"
    with folder() as place:
        _build(docker, place, "torchkiln:cpu", f"FROM {KEPT}\nUSER 0\n{change}\nUSER 1000:0\n")

    smoke = docker_kiln("smoke", "--cpu", "--engine", "docker")
    docker("image", "rm", "--force", "torchkiln:cpu")

    assert SmokeError.exit_code == smoke.returncode
    assert "the smoke suite failed in `torchkiln:cpu`" in smoke.stderr
    assert [] == containers(docker)


def test_commands_run_in_dockers_containers(
    docker_kiln: Kiln, docker: Engine, by_docker: dict[str, Any], scratch: Path
) -> None:
    assert by_docker
    (scratch / "data.txt").write_text("from the host\n")
    script = "id -u; cat /workspace/data.txt; touch /opt/x || exit 7"
    words = ("run", "--cpu", "--engine", "docker", "--uid", "4321", "--mount", str(scratch))
    done = docker_kiln(*words, "--", "sh", "-c", script)

    assert (7, "4321\nfrom the host\n") == (done.returncode, done.stdout)
    assert "Read-only file system" in done.stderr
    assert [] == containers(docker)


TRAINING = """
import signal, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    print("training", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(2)
    print("saved")
    raise SystemExit(3)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_command_that_is_stopped_ends_by_itself_and_leaves_no_container(
    docker_kiln: Kiln, docker: Engine, by_docker: dict[str, Any], number: int
) -> None:
    assert by_docker
    words = ("run", "--cpu", "--engine", "docker", "--", "python", "-c", TRAINING)
    process = docker_kiln.start(*words)
    assert process.stdout
    assert "training\n" == process.stdout.readline()
    assert 1 == len(containers(docker)), "a control: there is one to be removed"

    os.killpg(process.pid, number)
    done = finish(process)

    assert (3, "saved\n") == (done.returncode, done.stdout), done.stderr
    assert [] == containers(docker)


def test_a_second_ctrl_c_kills_the_container(
    docker_kiln: Kiln, docker: Engine, by_docker: dict[str, Any]
) -> None:
    """Also a program that takes no notice, as one does that is process 1 and has no handler."""
    assert by_docker
    words = ("run", "--cpu", "--engine", "docker", "--", "sh", "-c")
    process = docker_kiln.start(*words, "trap '' INT; echo begun; exec sleep 600")
    assert process.stdout
    assert "begun\n" == process.stdout.readline()
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)
    done = finish(process)

    assert 137 == done.returncode, done.stderr
    assert [] == containers(docker)


def test_an_engine_on_another_machine_runs_commands(
    docker_kiln: Kiln, by_docker: dict[str, Any], scratch: Path
) -> None:
    """By DOCKER_HOST, and by a context of Docker's; folders of this machine are not there."""
    assert by_docker
    far = replace(docker_kiln, env={"DOCKER_HOST": f"tcp://127.0.0.1:{PORT}"})
    config = {**os.environ, "DOCKER_CONFIG": str(scratch)}
    host = f"host=tcp://127.0.0.1:{PORT}"
    output("docker", "context", "create", "far", "--docker", host, env=config)
    context = {"DOCKER_CONFIG": str(scratch), "DOCKER_CONTEXT": "far", "DOCKER_HOST": ""}
    words = ("run", "--cpu", "--engine", "docker")

    assert "hello\n" == far(*words, "--", "echo", "hello").stdout
    assert "hello\n" == replace(docker_kiln, env=context)(*words, "--", "echo", "hello").stdout
    refused = far(*words, "--mount", str(scratch), "--", "true")
    assert EngineError.exit_code == refused.returncode
    assert "cannot be mounted into Docker" in refused.stderr


def test_gpus_that_an_engine_has_not_are_a_clear_error(
    docker_kiln: Kiln, docker: Engine, by_docker: dict[str, Any]
) -> None:
    assert by_docker
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    words = ("run", "--cpu", "--engine", "docker", "--gpus", "all", "--", "true")
    done = docker_kiln(*words)

    assert EngineError.exit_code == done.returncode, done.stderr
    assert "container toolkit" in done.stderr
    assert [] == containers(docker)


def test_an_image_is_pushed_and_keeps_its_digest(
    docker_kiln: Kiln, by_docker: dict[str, Any], registry: str
) -> None:
    target = f"{registry}/torchkiln:cpu"
    done = docker_kiln("push", "--cpu", "--engine", "docker", "--to", target)

    assert done.returncode == 0, done.stderr
    assert f"{target}@{by_docker['digest']}\n" == done.stdout
    found = json.loads(output("skopeo", "inspect", "--tls-verify=false", f"docker://{target}"))
    assert by_docker["digest"] == found["Digest"]


def test_kilns_image_loads_without_an_archive_and_keeps_its_digest(
    docker_kiln: Kiln, docker: Engine, by_docker: dict[str, Any], cpu: dict[str, Any]
) -> None:
    done = docker_kiln("build", "--cpu", "--load", "--json")

    assert done.returncode == 0, done.stderr
    assert identity(cpu) == identity(json.loads(done.stdout))
    found = docker("image", "inspect", "--format", "{{.Id}}", "torchkiln:cpu").strip()
    assert cpu["digest"] == found != by_docker["digest"]
    assert not [name for name in images(docker) if "arriving" in name]


def test_the_bake_file_is_one_for_bake(docker: Engine) -> None:
    """`--print` resolves the targets and builds nothing."""
    command = [*docker.command, "buildx", "bake", "--file", "images/docker-bake.json", "--print"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["target"]
    assert {"base", "cpu", "cu117"} <= set(found)
    assert "target:base" == found["cu117"]["contexts"]["base"]


@pytest.fixture(scope="module")
def podman_kiln(kiln: Kiln, cpu_in_podman: tuple[Engine, str]) -> Kiln:
    """`./kiln` that finds Podman's store of the tests."""
    return replace(kiln, env=cpu_in_podman[0].env)


@pytest.fixture(scope="module")
def cpu_in_podman(
    kiln: Kiln, built: Callable[[str], dict[str, Any]]
) -> Iterator[tuple[Engine, str]]:
    """Podman into which the image was loaded, and what it says of that."""
    built("cpu")
    with folder() as place, podman(place) as engine:
        done = replace(kiln, env=engine.env)("build", "--cpu", "--load=podman")
        assert done.returncode == 0, done.stderr
        yield engine, done.stderr


def test_kilns_image_loads_into_podman(
    cpu_in_podman: tuple[Engine, str], cpu: dict[str, Any]
) -> None:
    engine, said = cpu_in_podman
    manifest = Path(cpu["layout"], "blobs", cpu["digest"].replace(":", "/"))
    config = json.loads(manifest.read_text())["config"]["digest"]

    assert "loaded into Podman" in said
    assert (
        config.removeprefix("sha256:")
        == engine("image", "inspect", "--format", "{{.Id}}", "torchkiln:cpu").strip()
    )


@pytest.mark.slow
def test_testinfra_and_the_suite_pass_in_podmans_containers(
    podman_kiln: Kiln, cpu_in_podman: tuple[Engine, str]
) -> None:
    smoke = podman_kiln("smoke", "--cpu", "--engine", "podman")
    verify = podman_kiln("verify", "--cpu", "--engine", "podman")

    assert smoke.returncode == 0, smoke.stderr
    assert " passed in " in smoke.stdout
    assert verify.returncode == 0, verify.stderr
    assert " 0 failed, 8 skipped " in verify.stdout
    assert [] == cpu_in_podman[0]("ps", "--all", "--quiet").split()


@pytest.mark.slow
def test_podman_has_what_kiln_has(podman_kiln: Kiln) -> None:
    done = podman_kiln("diff", "cpu@kiln", "cpu@podman")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the same: ")


@pytest.mark.slow
def test_podmans_socket_does_for_dockers(
    podman_kiln: Kiln, cpu_in_podman: tuple[Engine, str]
) -> None:
    """`--engine docker` with DOCKER_HOST at a service of Podman."""
    engine = cpu_in_podman[0]
    with folder() as place:
        address = f"unix://{place}/podman.sock"
        command = [*engine.command, "system", "service", "--time=60", address]
        service = subprocess.Popen(command, env=dict(engine.env), start_new_session=True)
        try:
            assert wait_for((place / "podman.sock").exists, 10)
            by_socket = replace(podman_kiln, env={**engine.env, "DOCKER_HOST": address})
            words = ("--cpu", "--engine", "docker", "--", "echo", "hello")
            done = by_socket("run", *words)
            load = by_socket("build", "--cpu", "--load")
        finally:
            service.terminate()
            service.wait(10)

    assert (0, "hello\n") == (done.returncode, done.stdout), done.stderr
    assert load.returncode == 0, load.stderr
    assert "loaded into Podman" in load.stderr


@pytest.mark.slow
def test_the_cuda_images_of_the_two_engines_differ_in_nothing(
    docker_kiln: Kiln, docker: Engine, built: Callable[[str], dict[str, Any]]
) -> None:
    """Among its layers are some of wheels that hold no module to be compiled."""
    built("cu117")
    document = docker_kiln.build("--cuda", "117", "--engine", "docker")

    done = docker_kiln("diff", "cu117@kiln", "cu117@docker")
    docker("image", "rm", "--force", "torchkiln:cu117")

    assert document["smoke"]["passed"]
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("the same: ")
