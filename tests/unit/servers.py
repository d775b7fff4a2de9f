"""Real HTTP(S) servers and proxies on this machine that misbehave on command."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Behaviour = Callable[["Handler", bytes], None]


@dataclass
class Site:
    """What a server offers (path to body or behaviour), does wrong, and was asked for.

    `faults` are used up, one for each request of the path, before `files` answers.
    """

    files: dict[str, bytes | Behaviour]
    faults: dict[str, list[Behaviour]] = field(default_factory=dict)
    url: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def paths(self) -> list[str]:
        """Return what was asked for, in order."""
        return [path for path, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    """Answers from a site."""

    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        """Answer with the path's next fault, else its file, else 404."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.site.requests.append((self.path, headers))
        path = urlsplit(self.path).path
        faults = self.site.faults.get(path, [])
        found = self.site.files.get(path)
        body = found if isinstance(found, bytes) else b""
        if faults:
            faults.pop(0)(self, body)
        elif found is None:
            status(404)(self, b"")
        elif isinstance(found, bytes):
            ranged(self, found)
        else:
            found(self, b"")

    def do_HEAD(self) -> None:
        """Answer as to GET, with the headers alone."""
        self.do_GET()

    def reply(self, code: int, body: bytes, **headers: str) -> None:
        """Send a response, by default with the length of `body`; an empty header is none."""
        self.send_response(code)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.send(body)

    def send(self, body: bytes) -> None:
        """Send and count some bytes."""
        self.wfile.write(body)
        self.wfile.flush()
        self.site.sent += len(body)

    def log_message(self, *_: Any) -> None:  # noqa: ANN401
        """Say nothing."""


def ranged(handler: Handler, body: bytes, *, etag: str = "") -> None:
    """Serve `body`, or the part of it that is asked for."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if asked and handler.headers.get("If-Range", etag) == etag:
        start = int(asked[1])
        total = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.reply(206, body[start:], Content_Range=total, ETag=etag)
    else:
        handler.reply(200, body, ETag=etag)


def whole(handler: Handler, body: bytes) -> None:
    """Ignore Range."""
    handler.reply(200, body)


def cut(count: int, etag: str = "") -> Behaviour:
    """Promise everything, send `count` bytes of it and close the connection."""

    def behave(handler: Handler, body: bytes) -> None:
        handler.reply(200, body[:count], Content_Length=str(len(body)), ETag=etag)
        handler.close_connection = True

    return behave


def hang(count: int = 0) -> Behaviour:
    """Promise everything, send `count` bytes of it, then nothing until the server ends."""

    def behave(handler: Handler, body: bytes) -> None:
        handler.reply(200, body[:count], Content_Length=str(len(body)))
        handler.site.closing.wait()
        handler.close_connection = True

    return behave


def endless(handler: Handler, body: bytes) -> None:
    """Send `body` and go on, with no length told, until the other side has enough."""
    handler.reply(200, body, Content_Length="", Connection="close")
    with contextlib.suppress(OSError):
        while not handler.site.closing.is_set():
            handler.send(bytes(1 << 16))
    handler.close_connection = True


def status(code: int, **headers: str) -> Behaviour:
    """Answer with a status and no body."""
    return lambda handler, _: handler.reply(code, b"", **headers)


def page(kind: str, body: str) -> Behaviour:
    """Serve a page of a media type."""
    return lambda handler, _: handler.reply(200, body.encode(), Content_Type=kind)


@contextlib.contextmanager
def serving(
    files: Mapping[str, bytes | Behaviour], tls: ssl.SSLContext | None = None
) -> Iterator[Site]:
    """Serve `files` on a free port of localhost."""
    site = Site(dict(files))
    with _running(type("Bound", (Handler,), {"site": site}), tls) as port:
        site.url = f"{'https' if tls else 'http'}://localhost:{port}"
        yield site
        site.closing.set()


@contextlib.contextmanager
def _running(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    # Clients that hang up or refuse a certificate are what is tested, not worth a traceback.
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls:
        # The handshake belongs to the connection's thread: it must not block the others.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class ProxyHandler(BaseHTTPRequestHandler):
    """A plain proxy: absolute URLs for http, CONNECT for the rest."""

    seen: list[tuple[str, str, str | None]]

    def do_GET(self) -> None:
        """Pass a request on."""
        self._note()
        parts = urlsplit(self.path)
        with socket.create_connection((parts.hostname, parts.port or 80)) as upstream:
            upstream.sendall(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
            while chunk := upstream.recv(1 << 16):
                self.wfile.write(chunk)

    def do_CONNECT(self) -> None:
        """Open a tunnel."""
        self._note()
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: upstream, upstream: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    chunk = end.recv(1 << 16)
                    if not chunk:
                        return
                    ends[end].sendall(chunk)

    def _note(self) -> None:
        self.seen.append((self.command, self.path, self.headers.get("Proxy-Authorization")))

    def log_message(self, *_: Any) -> None:  # noqa: ANN401
        """Say nothing."""


@dataclass
class Proxy:
    """A running proxy and what went through it: command, target, Proxy-Authorization."""

    url: str
    seen: list[tuple[str, str, str | None]]


@contextlib.contextmanager
def proxying() -> Iterator[Proxy]:
    """Run a proxy on a free port of localhost."""
    seen: list[tuple[str, str, str | None]] = []
    with _running(type("Bound", (ProxyHandler,), {"seen": seen}), None) as port:
        yield Proxy(f"http://localhost:{port}", seen)


@dataclass(frozen=True)
class Authority:
    """A private CA: its certificate's file, and a server's context with a certificate of it."""

    path: Path
    server: ssl.SSLContext


def authority(folder: Path, days: int = 2) -> Authority:
    """Make a private CA and a certificate of it for localhost, which is valid for some days."""
    _openssl(folder, "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
             " -keyout ca.key -out ca.pem -subj /CN=private")  # fmt: skip
    _openssl(folder, "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
             " -keyout server.key -out server.csr -subj /CN=localhost")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost\n", encoding="utf-8")
    _openssl(folder, "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial"
             f" -days {days} -extfile names -out server.pem")  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return Authority(folder / "ca.pem", context)


def _openssl(folder: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)
