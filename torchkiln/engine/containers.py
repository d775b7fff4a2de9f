"""Containers of Docker and Podman: made, used, and removed whatever happens.

As the sandbox runs an image: its own user or any uid, no network unless asked, a read-only root
with a writable /tmp.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from docker.errors import APIError, DockerException
from docker.types import DeviceRequest
from docker.types import Mount as EngineMount
from packaging.version import Version
from requests.exceptions import RequestException

from torchkiln import foreground
from torchkiln.engine.images import asked
from torchkiln.engine.watch import watched
from torchkiln.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from signal import Signals

    from docker.models.containers import Container

    from torchkiln.engine.connection import Engine
    from torchkiln.engine.images import EngineImage
    from torchkiln.sandbox import Mount

LABEL: Final = "io.torchkiln.run"
"""On each container: the run that it belongs to, and with which it goes."""

_WRITABLE: Final = {"/tmp": "mode=1777,exec", "/run": "mode=755"}  # noqa: S108 - the container's
_PODMAN_WITH_GPUS: Final = Version("5.4")
_NOT_RUNNING: Final = frozenset({HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND})
_MAX_OUTPUT: Final = 64 << 20  # bytes that are taken out of a container


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """How to run; `gpus` is `all`, a list of indices (`0,1`), or empty for none.

    `environment` adds to the image's. `interactive` gives the container a terminal. `init` runs the
    program under the engine's init, where it has one: as process 1, a program without a handler for
    SIGTERM would ignore it.
    """

    uid: int | None = None
    gid: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    network: bool = False
    read_only: bool = True
    gpus: str = ""
    interactive: bool = False
    init: bool = False
    run: str = ""


@contextmanager
def container(
    engine: Engine, image: EngineImage, argv: Sequence[str], options: ContainerOptions
) -> Iterator[Container]:
    """Give a container of `image` that will run `argv`; it is gone afterwards."""
    if options.mounts and not engine.local:
        what = f"folders of this machine cannot be mounted into {engine.title}"
        raise EngineError(what, hint="./kiln run without --mount, or on a local engine")
    # Named before it is made, so that it can be removed also when the answer never comes.
    name = f"torchkiln-{uuid.uuid4().hex[:12]}"
    try:
        with asked(engine, f"cannot make a container of `{image.reference}`"):
            made = _create(engine, image, argv, {"name": name, **_settings(engine, options)})
        yield made
    finally:
        _remove(engine, name)


def attach(engine: Engine, made: Container, *, terminal: bool) -> int:
    """Run the container in the foreground, its streams ours; return its exit code.

    Signals go to the container by the API, once. Without a terminal the command line would pass
    them on as well, so it is kept from them by a session of its own.
    """
    command = engine.command("start", "--attach", "--interactive", str(made.name))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=engine.environ, start_new_session=not terminal)

    code = foreground.run(start, lambda _, number: _send(engine, made, number)).code
    with asked(engine, "cannot ask for the container"):
        made.reload()
    state = made.attrs["State"]
    if state.get("Error") or state["Status"] == "created":  # its command line may have said more
        raise _start_error(engine, made, state.get("Error") or f"exit code {code}")
    return int(state["ExitCode"])


def _send(engine: Engine, made: Container, number: Signals) -> bool:
    """Send a signal to the container; return False where it does not run (yet)."""
    try:
        with asked(engine, "cannot send a signal to the container"):
            made.kill(number.name)
    except EngineError as error:
        if getattr(error.__cause__, "status_code", None) in _NOT_RUNNING:
            return False
        raise
    return True


def run(engine: Engine, made: Container) -> tuple[int, bytes, bytes]:
    """Run the container to its end; return exit code, standard output and standard error."""
    output: tuple[list[bytes], list[bytes]] = ([], [])

    def work() -> int:
        stream = made.attach(stdout=True, stderr=True, stream=True, logs=True, demux=True)
        made.start()
        for chunks in stream:
            for part, chunk in zip(output, chunks, strict=True):
                part.append(chunk or b"")
        return int(made.wait()["StatusCode"])

    try:
        code = watched(engine, work)
    except (DockerException, RequestException) as error:
        raise _start_error(
            engine, made, str(getattr(error, "explanation", None) or error)
        ) from error
    return code, b"".join(output[0]), b"".join(output[1])


def check_starts(engine: Engine, image: EngineImage, gpus: str = "") -> None:
    """Raise `EngineError` in the engine's own words unless a container of `image` starts."""
    with container(engine, image, ["true"], ContainerOptions(gpus=gpus)) as made:
        run(engine, made)


def start(engine: Engine, made: Container) -> None:
    """Start the container in the background."""
    try:
        made.start()
    except (DockerException, RequestException) as error:
        raise _start_error(
            engine, made, str(getattr(error, "explanation", None) or error)
        ) from error


def take_files(engine: Engine, made: Container, folder: str) -> dict[str, bytes]:
    """Return the files of a folder of the container, by name; folders below it are passed over."""
    with asked(engine, f"cannot copy {folder} out of a container"):
        chunks, _ = made.get_archive(folder)
        data = bytearray()
        for chunk in chunks:
            data += chunk
            if len(data) > _MAX_OUTPUT:
                what = f"{folder} in the container is larger than {_MAX_OUTPUT} bytes"
                raise EngineError(what)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.isfile() and (stream := archive.extractfile(member)):
                found[member.name.rpartition("/")[2]] = stream.read()
    return found


def remove_run(engine: Engine, run: str) -> None:
    """Remove all containers that were made with this `run`."""
    with asked(engine, "cannot list the containers"):
        found = engine.client.containers.list(all=True, filters={"label": f"{LABEL}={run}"})
    for one in found:
        _remove(engine, str(one.name))


def _remove(engine: Engine, name: str) -> None:
    # An engine that died has no running containers; one that hangs cannot be helped from here.
    if engine.answers():
        with suppress(DockerException, RequestException):
            engine.client.api.remove_container(name, force=True, v=True)


def _create(
    engine: Engine, image: EngineImage, argv: Sequence[str], settings: Mapping[str, Any]
) -> Container:
    create = partial(engine.client.containers.create, image.id, list(argv))
    try:
        return create(**settings)
    except APIError as error:
        # Podman does not tell before; packages of it merely recommend an init.
        if "container-init binary not found" not in str(error):
            raise
        return create(**{**settings, "init": False})


def _settings(engine: Engine, options: ContainerOptions) -> dict[str, Any]:
    """Return what the SDK calls these options."""
    info = engine.client.info()
    settings: dict[str, Any] = {
        "environment": dict(options.environment),
        "labels": {LABEL: options.run} if options.run else {},
        "mounts": [_mount(mount) for mount in options.mounts],
        "read_only": options.read_only,
        "stdin_open": True,
        "tty": options.interactive,
        # The engines' own 64 MB are too few for DataLoaders; this is what the sandbox gives.
        "shm_size": info["MemTotal"] // 2,
    }
    if options.uid is not None:
        settings["user"] = f"{options.uid}:{options.gid}"
    if options.read_only:
        settings["tmpfs"] = dict(_WRITABLE)
    if options.init:
        # Docker runs its init to learn its commit.
        settings["init"] = info["InitCommit"]["ID"] != "N/A"
    if not options.network:
        settings["network_mode"] = "none"
    if options.gpus:
        settings["device_requests"] = [_gpu_request(engine, options.gpus)]
    return settings


def _gpu_request(engine: Engine, gpus: str) -> DeviceRequest:
    if not engine.podman:
        chosen: dict[str, Any] = {"device_ids": gpus.split(",")} if gpus != "all" else {"count": -1}
        return DeviceRequest(capabilities=[["gpu"]], **chosen)
    # Older ones take the request and give no GPU, without a word (containers/podman#25171).
    if Version(engine.version) < _PODMAN_WITH_GPUS:
        what = f"{engine.title} passes no GPUs through its API"
        hint = f"take Podman {_PODMAN_WITH_GPUS}, or `podman run --device nvidia.com/gpu=all`"
        raise EngineError(what, hint=hint)
    names = [f"nvidia.com/gpu={gpu}" for gpu in gpus.split(",")]
    return DeviceRequest(driver="cdi", device_ids=names)


def _mount(mount: Mount) -> EngineMount:
    source = str(mount.source)
    return EngineMount(mount.target, source, type="bind", read_only=not mount.writable)


def _start_error(engine: Engine, made: Container, message: str) -> EngineError:
    image = made.attrs["Image"].removeprefix("sha256:")[:12]
    hint = f"see whether it starts without Torchkiln: `{engine.name} run --rm {image} true`"
    if "capabilities: [[gpu]]" in message or "nvidia" in message:
        hint = "install NVIDIA's container toolkit, or leave out --gpus"
    return EngineError(f"the container does not start: {engine.title}", message, hint)
