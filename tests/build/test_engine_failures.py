"""Engines that are wrong, old, full, killed or stopped: a clear error, and nothing is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from engines import Dockerd, dockerds, podman, require, require_buildx, require_root
from kiln_runs import Kiln, finish, free_port, listens, output, unmount_below, wait_for

from torchkiln.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engines import Engine

BUILD: Final = ("build", "--cpu", "--engine", "docker", "--no-smoke")
LOAD: Final = ("build", "--cpu", "--no-smoke", "--load")
pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture
def dockerd(scratch: Path) -> Iterator[Dockerd]:
    """A Docker engine that can build, not started yet."""
    require_buildx()
    yield Dockerd(folder=scratch, program=dockerds(lambda version: version >= 23))
    unmount_below(scratch)


def at(kiln: Kiln, address: str) -> Kiln:
    return replace(kiln, env={"DOCKER_HOST": address})


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the message of a command that failed as it should."""
    assert EngineError.exit_code == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def left(engine: Engine) -> list[str]:
    """Return the images and containers of an engine, also those without a name."""
    return [
        *engine("images", "--all", "--quiet").split(),
        *engine("ps", "--all", "--quiet").split(),
    ]


@pytest.mark.parametrize("words", [BUILD, LOAD, ("run", "--cpu", "--engine", "docker", "--", "id")])
def test_a_wrong_docker_host_is_named(kiln: Kiln, words: tuple[str, ...]) -> None:
    message = refused(at(kiln, "unix:///nowhere/docker.sock")(*words))

    assert "no container engine answers at unix:///nowhere/docker.sock" in message
    assert "DOCKER_HOST names it" in message
    assert "hint: " in message


def test_a_socket_that_hangs_is_given_up(kiln: Kiln, scratch: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{scratch}/docker.sock")
        listening.listen()
        message = refused(at(kiln, f"unix://{scratch}/docker.sock")(*BUILD))

    assert "it gives no answer within 10 s" in message


def test_a_missing_image_is_named_with_the_way_to_it(kiln: Kiln, dockerd: Dockerd) -> None:
    with dockerd.running():
        message = refused(at(kiln, dockerd.socket)("smoke", "--cpu", "--engine", "docker"))

    assert "there is no image `torchkiln:cpu` in Docker" in message
    assert "hint: ./kiln build --cpu --load" in message


def test_a_command_line_without_buildx_says_what_to_install(
    kiln: Kiln, dockerd: Dockerd, scratch: Path
) -> None:
    if Path("/usr/libexec/docker/cli-plugins/docker-buildx").exists():
        pytest.skip("this machine has buildx for everyone")
    (scratch / "config").mkdir()
    env = {"DOCKER_HOST": dockerd.socket, "DOCKER_CONFIG": f"{scratch}/config"}
    with dockerd.running():
        message = refused(replace(kiln, env=env)(*BUILD))

    assert "has no buildx" in message
    assert "hint: sudo apt-get install docker-buildx-plugin" in message


@pytest.fixture
def old_engine(scratch: Path) -> Iterator[Engine]:
    """A Docker engine from before 23."""
    require_buildx()
    program = dockerds(lambda version: version < 23)
    with Dockerd(folder=scratch, program=program).running() as engine:
        yield engine


def test_an_engine_that_is_too_old_cannot_build(kiln: Kiln, old_engine: Engine) -> None:
    message = refused(at(kiln, old_engine.command[-1])(*BUILD))

    assert "is too old to build the Dockerfile" in message
    assert "Docker 23 or newer" in message


@pytest.mark.slow
def test_an_engine_that_is_too_old_can_load(kiln: Kiln, old_engine: Engine) -> None:
    loaded = at(kiln, old_engine.command[-1])(*LOAD)

    assert loaded.returncode == 0, loaded.stderr
    assert "torchkiln:cpu" in old_engine("images", "--format", "{{.Repository}}:{{.Tag}}")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    require_root("a file system of the test's own")
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", path], check=True)


@pytest.mark.parametrize(
    ("words", "containerd"),
    [
        pytest.param(BUILD, True, id="build-containerd"),
        pytest.param(BUILD, False, id="build-classic", marks=pytest.mark.slow),
        pytest.param(LOAD, True, id="load-containerd", marks=pytest.mark.slow),
        pytest.param(LOAD, False, id="load-classic"),
    ],
)
def test_a_full_disk_of_the_engine_is_named_and_no_half_image_is_left(
    kiln: Kiln, dockerd: Dockerd, *, containerd: bool, words: tuple[str, ...]
) -> None:
    engine = replace(dockerd, containerd=containerd)
    with small_disk(engine.folder / "data", "600m"), engine.running() as docker:
        message = refused(at(kiln, engine.socket)(*words))

        assert "no space left on device" in message.lower()
        assert "hint: docker system df" in message
        names = docker("images", "--all", "--format", "{{.Repository}}:{{.Tag}}").split()
        assert [] == [name for name in names if "debian" not in name], "the base is whole"
        assert [] == docker("ps", "--all", "--quiet").split()


def installs() -> bool:
    """Tell whether BuildKit is installing wheels."""
    found = subprocess.run(["pgrep", "--full", "/kiln/install"], capture_output=True, check=False)
    return bool(found.stdout)


@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_engine_that_is_killed_in_mid_build_leaves_nothing(
    kiln: Kiln, dockerd: Dockerd, *, again: bool
) -> None:
    """And with the same data it builds the image when it is back."""
    process = dockerd.start()
    build = at(kiln, dockerd.socket).start(*BUILD)
    try:
        assert wait_for(installs, 60), "BuildKit does not install wheels"
    finally:
        for pid_file in dockerd.folder.glob("exec/containerd/containerd.pid"):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        process.kill()
        process.wait(10)
    message = refused(finish(build))
    wait_for(lambda: not installs(), 20)

    assert "went away while it built `cpu`" in message
    assert "hint: start it again" in message
    (dockerd.folder / "pid").unlink(missing_ok=True)
    with dockerd.running() as engine:
        assert [] == left(engine)
        if again:
            done = at(kiln, dockerd.socket)(*BUILD)
            assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_engine_that_stops_in_mid_build_is_given_up_after_a_minute(
    kiln: Kiln, dockerd: Dockerd
) -> None:
    process = dockerd.start()
    build = at(kiln, dockerd.socket).start(*BUILD)
    assert wait_for(installs, 60), "BuildKit does not install wheels"
    process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    message = refused(finish(build))
    waited = time.monotonic() - started
    process.send_signal(signal.SIGCONT)
    time.sleep(2)

    assert "has stopped answering" in message
    assert 60 < waited < 120
    assert [] == left(dockerd.engine)
    process.terminate()
    process.wait(30)


@pytest.mark.parametrize("words", [BUILD, LOAD], ids=["build", "load"])
def test_a_build_that_is_stopped_leaves_nothing_in_the_engine(
    kiln: Kiln, dockerd: Dockerd, words: tuple[str, ...]
) -> None:
    """Ctrl-C: BuildKit stops a build for which nobody waits, Docker a load that ends early."""
    with dockerd.running() as engine:
        process = at(kiln, dockerd.socket).start(*words)
        content = dockerd.folder / "data/containerd/daemon/io.containerd.content.v1.content"
        begun = installs if words == BUILD else lambda: any(content.glob("ingest/*"))
        assert wait_for(begun, 60), "nothing has begun"
        os.killpg(process.pid, signal.SIGINT)
        done = finish(process)

        assert 130 == done.returncode, done.stderr
        assert "Traceback" not in done.stderr
        assert wait_for(lambda: not installs(), 20)
        assert [] == left(engine)


@pytest.fixture
def broken_podman(kiln: Kiln, scratch: Path) -> Iterator[Kiln]:
    """`./kiln` with a Podman that has an image of that name and starts no container of any."""
    with podman(scratch) as engine:
        with tarfile.open(scratch / "root.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo("file"))
        engine("import", str(scratch / "root.tar"), "docker.io/library/torchkiln:cpu")
        runtime = '[engine]\nruntime = "crun"\n[engine.runtimes]\ncrun = ["/bin/false"]\n'
        with (scratch / "containers.conf").open("a") as settings:
            settings.write(runtime)
        yield replace(kiln, env=engine.env)
        unmount_below(scratch)  # what each start of Podman has mounted once more


def test_an_engine_that_starts_no_container_is_blamed_and_not_the_image(
    broken_podman: Kiln,
) -> None:
    """`verify` would run for minutes and let each test find the image at fault."""
    for words in (("verify",), ("smoke",), ("run", "--", "true")):
        started = time.monotonic()
        message = refused(broken_podman(words[0], "--cpu", "--engine", "podman", *words[1:]))

        assert "error: the container does not start: Podman" in message
        assert re.search(r"hint: .+`podman run --rm [0-9a-f]{12} true`\n$", message), message
        assert time.monotonic() - started < 60


@pytest.fixture
def sshd(scratch: Path) -> Iterator[dict[str, str]]:
    """What the environment needs to reach this machine as a remote one, by ssh."""
    require("ssh", "ssh-keygen", "sshd")
    require_root("an sshd of the test's own")
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{scratch}/key")
    shutil.copy(scratch / "key.pub", scratch / "authorized_keys")
    port = free_port()
    (scratch / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {scratch}/key\nStrictModes no\n"
        f"AuthorizedKeysFile {scratch}/authorized_keys\nPidFile none\nUsePAM no\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    program = str(shutil.which("sshd"))
    server = subprocess.Popen([program, "-D", "-e", "-f", f"{scratch}/sshd_config"], stderr=-3)
    bin_folder = scratch / "bin"
    bin_folder.mkdir()
    # The user's ssh would know key and host by its own configuration.
    options = f"-i {scratch}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    (bin_folder / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
    (bin_folder / "ssh").chmod(0o755)
    try:
        assert wait_for(lambda: listens(port), 10)
        yield {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PORT": str(port)}
    finally:
        server.terminate()
        server.wait(10)


def by_ssh(kiln: Kiln, dockerd: Dockerd, sshd: dict[str, str]) -> Kiln:
    address = f"ssh://root@127.0.0.1:{sshd['PORT']}{dockerd.folder}/docker.sock"
    return replace(kiln, env={"PATH": sshd["PATH"], "DOCKER_HOST": address})


def test_an_engine_answers_by_ssh(kiln: Kiln, dockerd: Dockerd, sshd: dict[str, str]) -> None:
    far = by_ssh(kiln, dockerd, sshd)
    with dockerd.running():
        message = refused(far("run", "--cpu", "--engine", "docker", "--", "id", "-u"))

    expected = rf"no image `torchkiln:cpu` in Docker \S+ at {far.env['DOCKER_HOST']}"
    assert re.search(expected, message), message


@pytest.mark.slow
def test_an_engine_loads_and_runs_by_ssh(
    kiln: Kiln, dockerd: Dockerd, sshd: dict[str, str]
) -> None:
    far = by_ssh(kiln, dockerd, sshd)
    with dockerd.running():
        loaded = far(*LOAD)
        said = far("run", "--cpu", "--engine", "docker", "--", "id", "-u")

    assert loaded.returncode == 0, loaded.stderr
    assert (0, "1000\n") == (said.returncode, said.stdout), said.stderr
