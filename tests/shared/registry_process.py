"""Debian's registry server as a process of the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def registry_server(place: Path) -> Iterator[str]:
    """Run a registry server that keeps everything below `place`; give its address.

    Skips the test where there is none.
    """
    if not shutil.which("docker-registry"):
        pytest.skip("not installed: docker-registry")
    port = _free_port()
    config = place / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {place}/registry}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n"
    )
    # The server takes REGISTRY_AUTH_FILE, which is for its clients, for a setting of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    command = ["docker-registry", "serve", str(config)]
    with (place / "registry.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        _wait(port)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        assert time.monotonic() < deadline, "the registry did not start"
        time.sleep(0.05)
