from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from torchkiln.engine.sockets import podman_service, ssh_tunnel
from torchkiln.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path


def program(folder: Path, name: str, script: str) -> dict[str, str]:
    """Return an environment in which `name` is a shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_the_service_ends_with_the_block(tmp_path: Path) -> None:
    """The stand-in for Podman makes a file where the socket would be, and its process waits."""
    script = f'echo $$ >{tmp_path}/pid; touch "${{4#unix://}}"; exec sleep 60'
    with podman_service(program(tmp_path, "podman", script)) as socket:
        pid = int((tmp_path / "pid").read_text())
        assert socket.exists()
        os.kill(pid, 0)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    environ = program(tmp_path, "podman", "echo 'no subuid ranges' >&2; exit 125")

    with (
        pytest.raises(EngineError, match="Podman does not start") as caught,
        podman_service(environ),
    ):
        pass
    assert "no subuid ranges" in caught.value.why


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ssh://far", "-L {}:/var/run/docker.sock -- far"),
        ("ssh://me@far:2222", "-p 2222 -L {}:/var/run/docker.sock -- me@far"),
        ("ssh://far/run/user/7/docker.sock", "-L {}:/run/user/7/docker.sock -- far"),
    ],
)
def test_ssh_is_asked_for_the_engines_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    script = (
        f'echo "$*" >{tmp_path}/words; for word; do [ "$last" = -L ] && break; last=$word; done'
    )
    script += '; touch "${word%%:*}"; exec sleep 60'
    environ = program(tmp_path, "ssh", script)
    monkeypatch.setenv("PATH", environ["PATH"])
    with ssh_tunnel(url, environ) as socket:
        said = (tmp_path / "words").read_text().strip()

    assert said.endswith(words.format(socket))


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")
def test_a_host_that_cannot_be_reached_is_named_with_what_ssh_says() -> None:
    with (
        pytest.raises(EngineError, match="no way to ssh://nobody@engine") as caught,
        ssh_tunnel("ssh://nobody@engine.invalid", dict(os.environ)),
    ):
        pass
    assert "engine.invalid" in caught.value.why


def test_no_process_is_left_of_a_service_that_made_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchkiln.engine.sockets._START", 0.2)
    environ = program(tmp_path, "podman", f"echo $$ >{tmp_path}/pid; exec sleep 60")
    with pytest.raises(EngineError), podman_service(environ):
        pass

    pid = (tmp_path / "pid").read_text().strip()
    assert subprocess.run(["kill", "-0", pid], capture_output=True, check=False).returncode
