"""What the tests of a real registry share: the server, a way to it that breaks, small images."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from registry_process import registry_server

from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry server that is empty at the start of the file."""
    with registry_server(tmp_path_factory.mktemp("registry")) as address:
        yield address


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
