"""Where an engine is looked for, and what is said where none answers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docker.tls import TLSConfig
from docker_server import Daemon, serving, short_folder

from torchkiln.engine import connection
from torchkiln.engine.connection import check_name, connect, docker_endpoint
from torchkiln.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder whose path is short enough for a socket."""
    with short_folder() as made:
        yield made


def refusal(url: str) -> EngineError:
    with pytest.raises(EngineError) as caught, connect("docker", {"DOCKER_HOST": url}):
        pass
    return caught.value


def test_an_engine_tells_its_version_and_its_store(folder: Path) -> None:
    daemon = Daemon(version="29.0.1", containerd=True)
    with serving(daemon, folder) as url, connect("docker", {"DOCKER_HOST": url}) as engine:
        assert f"Docker 29.0.1 at {url}" == engine.title
        assert (True, False, True) == (engine.containerd, engine.podman, engine.local)
        assert engine.answers()


def test_podman_behind_dockers_api_is_known(folder: Path) -> None:
    daemon = Daemon(version="4.3.1", components=("Podman Engine", "Conmon"))
    with serving(daemon, folder) as url, connect("docker", {"DOCKER_HOST": url}) as engine:
        assert f"Podman 4.3.1 at {url}" == engine.title
        assert engine.podman


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _: None, "No such file or directory"),
        (lambda path: path.touch(), "Connection refused"),
    ],
    ids=["no socket", "a file"],
)
def test_a_socket_without_engine_is_named_with_who_named_it(
    folder: Path, make: object, why: str
) -> None:
    make(folder / "docker.sock")  # type: ignore[operator]
    error = refusal(f"unix://{folder}/docker.sock")

    assert f"no container engine answers at unix://{folder}/docker.sock" == error.what
    assert f"{why}; DOCKER_HOST names it" == error.why
    assert error.hint


# The SDK leaves its connection to Python's garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_socket_that_hangs_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_ANSWER", 0.3)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/docker.sock")
        listening.listen()
        error = refusal(f"unix://{folder}/docker.sock")

    assert "it gives no answer within 0.3 s" in error.why


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("tcp://127.0.0.1:1", "Connection refused"),
        ("tcp://engine.invalid:2375", "Name or service not known"),
        ("gopher://engine", "Invalid bind address protocol"),
    ],
)
def test_a_wrong_host_is_told_apart(url: str, why: str) -> None:
    error = refusal(url)

    assert why in error.why
    assert "DOCKER_HOST" in error.why


def test_an_engine_that_may_not_be_used_says_how_to_be_allowed(tmp_path: Path) -> None:
    """A control: root may use everything."""
    if os.geteuid() == 0:
        hint = connection._hint(PermissionError(13, "Permission denied"))
    else:
        tmp_path.chmod(0)
        hint = refusal(f"unix://{tmp_path}/docker.sock").hint

    assert "usermod -aG docker" in hint


def test_without_a_setting_it_is_dockers_own_socket(tmp_path: Path) -> None:
    assert ["unix:///var/run/docker.sock", "Docker's default"] == endpoint(tmp_path)


needs_docker = pytest.mark.skipif(not shutil.which("docker"), reason="docker is not installed")


@needs_docker
def test_the_configured_context_is_used(tmp_path: Path) -> None:
    write_context(tmp_path, "far", "tcp://far:2375")
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "far"}))

    assert ["tcp://far:2375", "Docker's context `far`"] == endpoint(tmp_path)


@needs_docker
def test_a_context_of_the_environment_comes_before_the_configured_one(tmp_path: Path) -> None:
    write_context(tmp_path, "far", "tcp://far:2375")
    write_context(tmp_path, "near", "unix:///run/near.sock")
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "far"}))

    found = endpoint(tmp_path, DOCKER_CONTEXT="near")
    assert ["unix:///run/near.sock", "Docker's context `near`"] == found


@needs_docker
def test_the_certificates_of_a_context_are_used(tmp_path: Path) -> None:
    write_context(tmp_path, "far", "tcp://far:2376")
    place = tmp_path / "contexts/tls" / hashlib.sha256(b"far").hexdigest() / "docker"
    place.mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (place / name).touch()
    found = docker_endpoint({**os.environ, "DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "far"})

    assert isinstance(found.tls, TLSConfig)
    assert (str(place / "ca.pem"), True) == (found.tls.ca_cert, found.tls.verify)
    assert (str(place / "cert.pem"), str(place / "key.pem")) == found.tls.cert


def test_docker_host_comes_before_all_contexts(tmp_path: Path) -> None:
    found = endpoint(tmp_path, DOCKER_CONTEXT="nowhere", DOCKER_HOST="tcp://here:1")

    assert ["tcp://here:1", "DOCKER_HOST"] == found


@needs_docker
def test_a_context_that_does_not_exist_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    (said,) = endpoint(tmp_path, DOCKER_CONTEXT="nowhere")
    assert "Docker's configured context cannot be used" in said
    assert '"nowhere"' in said


def endpoint(config: Path, **environment: str) -> list[str]:
    """Return URL and origin (or the error) in a process, as Docker reads its files by itself."""
    code = """
import os
from torchkiln.engine.connection import docker_endpoint
from torchkiln.errors import EngineError
try:
    found = docker_endpoint(os.environ)
    print(found.url, found.origin, sep="\\t")
except EngineError as error:
    print(error.what, error.why)
"""
    environ = {"DOCKER_CONFIG": str(config), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().split("\t")


def write_context(config: Path, name: str, host: str) -> None:
    """Write a context as `docker context create` does."""
    place = config / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    place.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    body = {"Name": name, "Metadata": {}, "Endpoints": endpoints}
    (place / "meta.json").write_text(json.dumps(body))
    (config / "config.json").write_text("{}")


def test_names_of_engines_are_checked() -> None:
    assert "podman" == check_name("podman")
    with pytest.raises(EngineError, match="did you mean `docker`"):
        check_name("dokcer")


def test_a_command_line_that_is_not_installed_is_named(folder: Path) -> None:
    with serving(Daemon(), folder) as url:
        environ = {"DOCKER_HOST": url, "PATH": str(folder)}
        with connect("docker", environ) as engine, pytest.raises(EngineError) as caught:
            engine.command("buildx")

    assert "command line of Docker is not installed: `docker`" in caught.value.what
    assert "docs.docker.com" in caught.value.hint


def test_podman_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match="Podman is not installed") as caught,
        connect("podman", {"PATH": str(tmp_path)}),
    ):
        pass

    assert "apt-get install podman" in caught.value.hint


def test_tls_of_the_environment_is_used(tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    environ = {
        "DOCKER_HOST": "tcp://far:2376",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(tmp_path),
    }

    found = docker_endpoint(environ)
    assert isinstance(found.tls, TLSConfig)
    assert str(tmp_path / "ca.pem") == found.tls.ca_cert
