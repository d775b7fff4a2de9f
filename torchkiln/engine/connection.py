"""Reach Docker where its own command line would find it, and Podman by a service of our own.

Both speak Docker's API, so that the docker SDK serves for both. The command lines are used for what
the SDK cannot do: building (buildx), a terminal, and testinfra.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import docker
from docker.errors import DockerException
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env
from requests.exceptions import RequestException

from torchkiln.engine.sockets import podman_service, ssh_tunnel
from torchkiln.errors import EngineError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EngineName = Literal["docker", "podman"]
NAMES: Final[tuple[EngineName, ...]] = get_args(EngineName)

_ANSWER: Final = 10  # seconds in which an engine says who it is
_REPLY: Final = 600  # seconds in which it does something small: removing an image is no such thing
_SOCKET: Final = "unix:///var/run/docker.sock"
_TLS_FILES: Final = ("ca.pem", "cert.pem", "key.pem")
_INSTALL: Final = {
    "docker": "https://docs.docker.com/engine/install",
    "podman": "https://podman.io/docs/installation",
}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where an engine is: `url` as in DOCKER_HOST, `origin` says who named it.

    `remote` is the engine's own URL where `url` is this machine's end of a tunnel to it.
    """

    url: str
    origin: str
    tls: TLSConfig | Literal[False] = False
    remote: str = ""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine that answers; `name` is that of its command line.

    `version` is the engine's own, `podman` tells whether Podman stands behind Docker's API, and
    `containerd` whether Docker keeps images in containerd's store, byte by byte as they came.
    """

    name: EngineName
    endpoint: Endpoint
    client: docker.DockerClient
    version: str
    podman: bool
    containerd: bool
    environ: Mapping[str, str]

    @property
    def title(self) -> str:
        """Return what it is and where: `Docker 26.1.5 at unix:///var/run/docker.sock`."""
        address = self.endpoint.remote or self.endpoint.url
        where = "" if self.name == "podman" else f" at {address}"
        return f"{'Podman' if self.podman else 'Docker'} {self.version}{where}"

    @property
    def local(self) -> bool:
        """Tell whether it sees the folders of this machine."""
        return self.endpoint.url.startswith("unix://") and not self.endpoint.remote

    def answers(self) -> bool:
        """Tell whether it still answers, asked on a connection of its own."""
        try:
            _client(self.endpoint, _ANSWER).close()
        except EngineError:
            return False
        return True

    def command(self, *words: str) -> list[str]:
        """Return a command of its command line, to be run with `environ`."""
        program = shutil.which(self.name, path=self.environ.get("PATH"))
        if program is None:
            what = f"the command line of {self.name.capitalize()} is not installed: `{self.name}`"
            raise EngineError(what, hint=f"see {_INSTALL[self.name]}")
        return [program, *words]


def check_name(name: str) -> EngineName:
    """Return `name` if it is an engine's that runs containers, or raise `EngineError`."""
    for known in NAMES:
        if name == known:
            return known
    what = f"there is no engine `{name}`{did_you_mean(name, ('kiln', *NAMES))}"
    raise EngineError(what, f"there are: kiln, {', '.join(NAMES)}")


@contextmanager
def connect(name: EngineName, environ: Mapping[str, str] = os.environ) -> Iterator[Engine]:
    """Give the engine `name`; one that does not answer raises `EngineError`, which says where."""
    with ExitStack() as stack:
        if name == "podman":
            socket = stack.enter_context(podman_service(environ))
            endpoint = Endpoint(url=f"unix://{socket}", origin="Torchkiln")
        else:
            endpoint = docker_endpoint(environ)
            if endpoint.url.startswith("ssh://"):
                socket = stack.enter_context(ssh_tunnel(endpoint.url, environ))
                endpoint = replace(endpoint, url=f"unix://{socket}", remote=endpoint.url)
                environ = {**environ, "DOCKER_HOST": endpoint.url}
        client = _client(endpoint, _ANSWER)
        stack.callback(client.close)
        with _said(endpoint):
            version, info = client.version(), client.info()
        client.api.timeout = _REPLY
        parts = [part["Name"] for part in version.get("Components") or ()]
        yield Engine(
            name=name,
            endpoint=endpoint,
            client=client,
            version=version["Version"],
            podman="Podman Engine" in parts,
            containerd="io.containerd.snapshotter.v1" in str(info.get("DriverStatus")),
            environ=environ,
        )


def docker_endpoint(environ: Mapping[str, str]) -> Endpoint:
    """Return where `docker` would look: DOCKER_HOST, DOCKER_CONTEXT, its configured context."""
    if environ.get("DOCKER_HOST"):
        try:
            found = kwargs_from_env(environ)
        except DockerException as error:
            what = "the certificates for DOCKER_HOST cannot be read"
            raise EngineError(what, str(error), "export DOCKER_CERT_PATH=FOLDER") from error
        return Endpoint(url=found["base_url"], tls=found.get("tls", False), origin="DOCKER_HOST")
    program = shutil.which("docker", path=environ.get("PATH"))
    if program is None:
        return Endpoint(url=_SOCKET, origin="Docker's default")
    # Docker's own answer: the SDK finds no contexts where there is no config.json beside them.
    command = [program, "context", "inspect"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        what = "Docker's configured context cannot be used"
        raise EngineError(what, done.stderr.strip(), "docker context ls")
    (context,) = json.loads(done.stdout)
    name, host = context["Name"], context["Endpoints"]["docker"]["Host"]
    origin = "Docker's default" if name == "default" else f"Docker's context `{name}`"
    return Endpoint(url=host, tls=_tls(context), origin=origin)


def _tls(context: dict[str, Any]) -> TLSConfig | Literal[False]:
    """Return the TLS of a context; False where it has none."""
    names = context["TLSMaterial"].get("docker", ())
    if not names:
        return False
    folder = Path(context["Storage"]["TLSPath"], "docker")
    path = {name: str(folder / name) if name in names else "" for name in _TLS_FILES}
    return TLSConfig(
        client_cert=(path["cert.pem"], path["key.pem"]) if path["cert.pem"] else None,
        ca_cert=path["ca.pem"] or None,
        verify=not context["Endpoints"]["docker"]["SkipTLSVerify"],
    )


def _client(endpoint: Endpoint, timeout: int) -> docker.DockerClient:
    with _said(endpoint):
        return docker.DockerClient(base_url=endpoint.url, tls=endpoint.tls, timeout=timeout)


@contextmanager
def _said(endpoint: Endpoint) -> Iterator[None]:
    """Turn what the SDK raises for an engine that does not answer into an `EngineError`."""
    try:
        yield
    except (DockerException, RequestException, OSError, ValueError) as error:
        cause = _cause(error)
        what = f"no container engine answers at {endpoint.remote or endpoint.url}"
        raise EngineError(
            what, f"{_why(cause)}; {endpoint.origin} names it", _hint(cause)
        ) from None


def _cause(error: BaseException) -> BaseException:
    while before := error.__cause__ or error.__context__:
        error = before
    return error


def _why(cause: BaseException) -> str:
    if isinstance(cause, TimeoutError):
        return f"it gives no answer within {_ANSWER} s"
    return (isinstance(cause, OSError) and cause.strerror) or str(cause)


def _hint(cause: BaseException) -> str:
    if isinstance(cause, PermissionError):
        return "sudo usermod -aG docker $USER, then log in again"
    if isinstance(cause, FileNotFoundError):
        return f"sudo systemctl start docker, or install it: {_INSTALL['docker']}"
    return "docker context ls, or name another: export DOCKER_HOST=unix:///path/docker.sock"
