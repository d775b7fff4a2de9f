"""Processes that serve an engine's socket: Podman's service, and ssh to another machine."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from torchkiln.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_START: Final = 10  # seconds in which the socket must be there
_REMOTE_SOCKET: Final = "/var/run/docker.sock"


@contextmanager
def podman_service(environ: Mapping[str, str]) -> Iterator[Path]:
    """Give the socket of Podman's API for as long as it is needed: Podman has no daemon."""
    program = shutil.which("podman", path=environ.get("PATH"))
    if program is None:
        what = "Podman is not installed: `podman`"
        raise EngineError(what, hint="sudo apt-get install podman")
    with _socket() as socket:
        # It ends by itself where we are killed and cannot end it.
        command = [program, "system", "service", "--time=3600", f"unix://{socket}"]
        with _serving(command, socket, environ, "Podman does not start"):
            yield socket


@contextmanager
def ssh_tunnel(url: str, environ: Mapping[str, str]) -> Iterator[Path]:
    """Give the engine at `ssh://[user@]host[:port][/socket]` as a socket of this machine.

    By the user's own ssh client, with keys and configuration as they are.
    """
    address = urlsplit(url)
    host = f"{address.username}@{address.hostname}" if address.username else str(address.hostname)
    port = ["-p", str(address.port)] if address.port else []
    with _socket() as socket:
        forward = f"{socket}:{address.path.rstrip('/') or _REMOTE_SOCKET}"
        options = ["-nNT", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes", *port]
        command = ["ssh", *options, "-L", forward, "--", host]
        with _serving(command, socket, environ, f"no way to {url}"):
            yield socket


@contextmanager
def _socket() -> Iterator[Path]:
    # In /tmp, because the path of a socket has at most 107 bytes (unix(7)).
    with tempfile.TemporaryDirectory(prefix="torchkiln-", dir="/tmp") as folder:
        yield Path(folder, "engine.sock")


@contextmanager
def _serving(
    command: Sequence[str], socket: Path, environ: Mapping[str, str], failure: str
) -> Iterator[None]:
    """Run a process that serves `socket`; in a session of its own, so that Ctrl-C spares it."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineError(failure, f"{command[0]}: {error.strerror}") from None
        try:
            deadline = time.monotonic() + _START
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise EngineError(failure, log.read().decode(errors="replace").strip())
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_START)
