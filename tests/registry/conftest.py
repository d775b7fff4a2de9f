"""What the tests of a real registry share: the server, a way to it that breaks, small images."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry server that is empty at the start of the file."""
    if not shutil.which("docker-registry"):
        pytest.skip("not installed: docker-registry")
    place = tmp_path_factory.mktemp("registry")
    port = _free_port()
    config = place / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {place}/data}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n"
    )
    # The server takes REGISTRY_AUTH_FILE, which is for its clients, for a setting of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    command = ["docker-registry", "serve", str(config)]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        _wait(port)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of this machine."""
    return Store(tmp_path / "store")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    """The store of another machine."""
    return Store(tmp_path / "elsewhere")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pauses before the next try are short, and skopeo asks for no credentials of the machine."""
    (tmp_path / "auth.json").write_text("{}")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setattr("torchkiln.transport.random.uniform", lambda *_: 0.001)


@dataclass
class Wire:
    """A way to the server that counts what goes up and down, and breaks once where it is told.

    `cut_up` and `cut_down` are counts of bytes from now; None where it holds.
    """

    address: str
    up: int = 0
    down: int = 0
    cut_up: int | None = None
    cut_down: int | None = None
    cuts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def break_after(self, *, up: int | None = None, down: int | None = None) -> None:
        """Break the connection that brings the count to these bytes more than now."""
        self.cut_up = None if up is None else self.up + up
        self.cut_down = None if down is None else self.down + down

    def passes(self, count: int, *, upwards: bool) -> int:
        """Count bytes that go through; return how many of them may, before it breaks."""
        with self.lock:
            limit = self.cut_up if upwards else self.cut_down
            done = self.up if upwards else self.down
            allowed = count if limit is None else min(count, max(limit - done, 0))
            if upwards:
                self.up += allowed
            else:
                self.down += allowed
            if allowed < count:
                self.cut_up = self.cut_down = None
                self.cuts += 1
            return allowed


@pytest.fixture
def wire(server: str) -> Iterator[Wire]:
    """A way to the server, as its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Wire(address=f"localhost:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_accept, args=(listener, server, made))
        thread.start()
        try:
            yield made
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, server: str, wire: Wire) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, server, wire), daemon=True).start()


def _serve(client: socket.socket, server: str, wire: Wire) -> None:
    host, _, port = server.partition(":")
    with closing(client), socket.create_connection((host, int(port))) as upstream:
        upwards = threading.Thread(
            target=_pump, args=(client, upstream, wire), kwargs={"upwards": True}, daemon=True
        )
        upwards.start()
        _pump(upstream, client, wire, upwards=False)
        upwards.join()


def _pump(source: socket.socket, target: socket.socket, wire: Wire, *, upwards: bool) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            allowed = wire.passes(len(data), upwards=upwards)
            target.sendall(data[:allowed])
            if allowed < len(data):
                break
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        assert time.monotonic() < deadline, "the registry did not start"
        time.sleep(0.05)
