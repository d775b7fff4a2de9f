"""Container engines that judge an image: how each is started, asked and left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from kiln_runs import output

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# A container may be refused higher limits than the machine gives to a process of the engine.
_LIMITS: Final = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
_STORES: Final = {"classic": False, "containerd": True}


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A command line that loads images and runs containers; `limits` are options of its `run`."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    limits: tuple[str, ...] = ()

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
        return self("run", "--rm", "--network", "none", *self.limits, *options, image, *words)


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
    """Start a Docker engine that leaves the machine's network and other engines alone."""
    require("dockerd", "containerd", "runc")
    require_root("a Docker engine of the test's own")
    config = {
        "bridge": "none",
        "features": {"containerd-snapshotter": containerd},
        "ip6tables": False,
        "iptables": False,
    }
    (folder / "daemon.json").write_text(json.dumps(config))
    socket = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--config-file", str(folder / "daemon.json"), "--host", socket]
    command += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    command += ["--pidfile", str(folder / "pid")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    engine = Engine(command=("docker", "--host", socket), env=os.environ)
    try:
        for _ in range(60):
            if process.poll() is not None or engine.answers():
                break
            time.sleep(0.5)
        if not engine.answers():
            pytest.skip(f"dockerd does not start here: {(folder / 'log').read_text()[-300:]}")
        yield engine
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def podman(folder: Path) -> Iterator[Engine]:
    """Give Podman with an image store of the test's own."""
    require("podman", "umount")
    require_root("Podman without subordinate ids")
    store = ("--root", str(folder / "root"), "--runroot", str(folder / "run"))
    try:
        yield Engine(command=("podman", *store), env=os.environ, limits=_LIMITS)
    finally:
        mounted = folder / "root/overlay"
        if mounted.is_mount():
            subprocess.run(["umount", mounted], check=True)
