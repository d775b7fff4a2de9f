"""A small Docker engine on a socket: it speaks the API, keeps images by name, fails on command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from image_archives import names_and_blobs

from torchkiln.engine.connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.engine.connection import Engine

_VERSION = re.compile(r"^/v[\d.]+")


@dataclass
class Daemon:
    """What the engine is, has and does wrong.

    `images` are inspect documents by reference; `fault` ends a load with this message when
    `received` bytes have come, `silent` answers nothing any more. `init` is the commit of its init;
    `without_init` refuses to make containers with one, as Podman does.
    """

    version: str = "26.1.5"
    components: tuple[str, ...] = ("Engine",)
    containerd: bool = False
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    has: set[str] = field(default_factory=set)
    init: str = ""
    without_init: bool = False
    created: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""
    silent: threading.Event = field(default_factory=threading.Event)
    received: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def load(self, data: bytes) -> str:
        """Take an archive; return what is wrong with it, "" if nothing is."""
        self.received.append(len(data))
        names, layers, blobs, document = names_and_blobs(data)
        missing = [layer for layer in layers if layer not in blobs | self.has]
        if missing:
            return f"layer not found: {missing[0]}"
        for name in names:
            self.images[name] = {"RepoTags": [name], "Size": 1, **document}
        if not self.fault:
            self.has |= set(layers)
        return self.fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    daemon: Daemon

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        path = self._path()
        if path == "/version":
            parts = [{"Name": name} for name in self.daemon.components]
            self._json({"Version": self.daemon.version, "ApiVersion": "1.45", "Components": parts})
        elif path == "/info":
            kind = "io.containerd.snapshotter.v1" if self.daemon.containerd else "overlay2"
            document = {"MemTotal": 1 << 30, "InitCommit": {"ID": self.daemon.init}}
            self._json({**document, "DriverStatus": [["driver-type", kind]]})
        elif path == "/containers/made/json":
            self._json({"Id": "made"})
        elif path == "/images/json":
            self._json([{"RepoTags": [], "Id": ""} | one for one in self.daemon.images.values()])
        elif found := re.fullmatch(r"/images/(.+)/json", path):
            self._image(found[1])
        else:
            self._json({"message": f"no such thing: {path}"}, 404)

    def do_POST(self) -> None:
        path = self._path()
        if path == "/images/load":
            message = self.daemon.load(self._body())
            self._json({"error": message} if message else {"stream": "Loaded"})
        elif found := re.fullmatch(r"/images/(.+)/tag", path):
            query = parse_qs(urlsplit(self.path).query)
            name = f"{query['repo'][0]}:{query['tag'][0]}"
            self.daemon.images[name] = {**self.daemon.images[found[1]], "RepoTags": [name]}
            self._json({}, 201)
        elif path == "/containers/create":
            self._create()
        else:
            self._json({"message": f"no such thing: {path}"}, 404)

    def _create(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.daemon.created.append(asked)
        if self.daemon.without_init and asked["HostConfig"].get("Init"):
            self._json({"message": "container create: container-init binary not found"}, 500)
        else:
            self._json({"Id": "made"}, 201)

    def do_DELETE(self) -> None:
        self.daemon.images.pop(self._path().removeprefix("/images/"), None)
        self._json([])

    def _path(self) -> str:
        if self.daemon.silent.is_set():
            self.daemon.silent.wait()
            threading.Event().wait(30)
        path = unquote(_VERSION.sub("", urlsplit(self.path).path))
        self.daemon.requests.append(f"{self.command} {path}")
        return path

    def _image(self, name: str) -> None:
        known = {one["Id"]: one for one in self.daemon.images.values()} | self.daemon.images
        if name in known:
            self._json(known[name])
        else:
            self._json({"message": f"No such image: {name}"}, 404)

    def _body(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _json(self, body: object, code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 20


@contextlib.contextmanager
def serving(daemon: Daemon, folder: Path) -> Iterator[str]:
    """Give the URL of the engine for as long as it is needed."""
    path = folder / "docker.sock"
    handler = type("Handler", (_Handler,), {"daemon": daemon})
    with _Server(str(path), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"unix://{path}"
        server.shutdown()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Give a folder whose path is short enough for a socket (unix(7): 107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="kiln-", dir="/tmp") as made:
        yield Path(made)


@contextlib.contextmanager
def engine_of(daemon: Daemon) -> Iterator[Engine]:
    """Give the engine as Torchkiln connects to it."""
    with short_folder() as folder, serving(daemon, folder) as url:
        environ = {"DOCKER_HOST": url, "PATH": os.environ["PATH"]}
        with connect("docker", environ) as engine:
            yield engine
