"""Container engines that judge an image: how each is started, asked and left."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from kiln_runs import output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

# A container may be refused higher limits than the machine gives to a process of the engine.
_LIMITS: Final = '["nofile=1024:1024", "nproc=1024:1024"]'
_STORES: Final = {"classic": False, "containerd": True}


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A command line that loads images and runs containers."""

    command: tuple[str, ...]
    env: Mapping[str, str]

    def __call__(self, *words: str) -> str:
        """Run a command of the engine and return what it prints."""
        return output(*self.command, *words, env=self.env)

    def answers(self) -> bool:
        """Tell whether there is an engine behind the command line."""
        command = [*self.command, "version", "--format", "{{.Server.Version}}"]
        return not subprocess.run(
            command, env=self.env, capture_output=True, check=False
        ).returncode

    def run(self, image: str, *words: str, options: tuple[str, ...] = ()) -> str:
        """Run a command in a container without network and return what it prints."""
        return self("run", "--rm", "--network", "none", *options, image, *words)


def require(*programs: str) -> None:
    """Skip the test, and say why, where a program is absent."""
    if missing := [program for program in programs if not shutil.which(program)]:
        pytest.skip(f"not installed: {', '.join(missing)}")


def require_root(what: str) -> None:
    """Skip the test, and say why, where it is run by an ordinary user."""
    if os.geteuid() != 0:
        pytest.skip(f"{what} needs root")


@contextmanager
def docker(kind: str, folder: Path) -> Iterator[Engine]:
    """Give Docker: the one that answers (`running`), or one started with that image store."""
    require("docker")
    running = Engine(command=("docker",), env=os.environ)
    if kind != "running":
        with _dockerd(folder, containerd=_STORES[kind]) as engine:
            yield engine
    elif running.answers():
        yield running
    else:
        pytest.skip("no Docker engine answers")


@contextmanager
def _dockerd(folder: Path, *, containerd: bool) -> Iterator[Engine]:
    """Give a Docker engine of the test's own."""
    with Dockerd(folder=folder, containerd=containerd).running() as engine:
        yield engine


@dataclass(frozen=True, kw_only=True)
class Dockerd:
    """A Docker engine that leaves the machine's network and other engines alone.

    All that it has lies in `folder`; `hosts` are more addresses at which it listens.
    """

    folder: Path
    containerd: bool = True
    program: str = "dockerd"
    hosts: tuple[str, ...] = ()

    @property
    def socket(self) -> str:
        """Return its address on this machine."""
        return f"unix://{self.folder}/docker.sock"

    @property
    def engine(self) -> Engine:
        """Return its command line."""
        return Engine(command=("docker", "--host", self.socket), env=os.environ)

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it answers; where it cannot, skip the test with the reason."""
        require("docker", "containerd", "runc", self.program)
        require_root("a Docker engine of the test's own")
        config = {
            "bridge": "none",
            "features": {"containerd-snapshotter": self.containerd},
            "ip6tables": False,
            "iptables": False,
        }
        (self.folder / "daemon.json").write_text(json.dumps(config))
        command = [self.program, "--config-file", str(self.folder / "daemon.json")]
        for host in (self.socket, *self.hosts):
            command += ["--host", host]
        command += ["--data-root", str(self.folder / "data")]
        command += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(120):
            if process.poll() is not None or self.engine.answers():
                break
            time.sleep(0.25)
        if not self.engine.answers():
            process.kill()
            log_end = (self.folder / "log").read_text()[-300:]
            pytest.skip(f"dockerd does not start here: {log_end}")
        return process

    @contextmanager
    def running(self) -> Iterator[Engine]:
        """Give it for as long as it is needed."""
        process = self.start()
        try:
            yield self.engine
        finally:
            process.terminate()
            process.wait(30)


def dockerds(fits: Callable[[int], bool]) -> str:
    """Return a `dockerd` of PATH whose major version fits, or skip the test."""
    for folder in os.environ["PATH"].split(os.pathsep):
        program = shutil.which("dockerd", path=folder)
        if program is None:
            continue
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"version (\d+)", said.stdout)
        if found and fits(int(found[1])):
            return program
    pytest.skip("no such version of dockerd is installed")


def require_buildx() -> None:
    """Skip the test where Docker's command line cannot build with BuildKit."""
    require("docker")
    if subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode:
        pytest.skip("not installed: docker buildx")


def podman_environment(folder: Path) -> dict[str, str]:
    """Return what gives every Podman, also one that Torchkiln starts, a store of the test's own."""
    storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/root"\n'
    (folder / "storage.conf").write_text(f'{storage}runroot = "{folder}/run"\n')
    (folder / "containers.conf").write_text(f"[containers]\ndefault_ulimits = {_LIMITS}\n")
    return {
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
    }


@contextmanager
def podman(folder: Path) -> Iterator[Engine]:
    """Give Podman with an image store of the test's own."""
    require("podman", "umount")
    require_root("Podman without subordinate ids")
    try:
        yield Engine(command=("podman",), env={**os.environ, **podman_environment(folder)})
    finally:
        mounted = folder / "root/overlay"
        if mounted.is_mount():
            subprocess.run(["umount", mounted], check=True)
