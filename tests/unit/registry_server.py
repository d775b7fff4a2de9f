"""A registry by the letter of distribution-spec 1.1 that misbehaves on command."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from servers import _running

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

    Fault = Callable[["RegistryHandler"], None]

_BLOB: Final = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})")
_UPLOADS: Final = re.compile(r"/v2/(.+)/blobs/uploads/")
_UPLOAD: Final = re.compile(r"/v2/(.+)/blobs/uploads/([0-9]+)-([0-9]+)")
_MANIFEST: Final = re.compile(r"/v2/(.+)/manifests/([^/]+)")
_REFERRERS: Final = re.compile(r"/v2/(.+)/referrers/(sha256:[0-9a-f]{64})")
_INDEX: Final = "application/vnd.oci.image.index.v1+json"


@dataclass
class Upload:
    """An upload under way; `step` is in its URL and changes with each answer."""

    data: bytearray = field(default_factory=bytearray)
    step: int = 0


@dataclass
class RegistryState:
    """What a registry holds and how it behaves.

    `faults` are used up by method and kind of path (`PATCH upload`), before the request is served.
    """

    blobs: dict[str, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))
    manifests: dict[str, dict[str, tuple[str, bytes]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    uploads: dict[str, Upload] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    mounts: bool = True
    referrers: bool = True
    tokens: bool = False
    user: str = ""
    life: int = 300
    revoked: int = 0
    tokens_given: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    received: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)
    address: str = ""

    def asked(self, method: str, part: str = "") -> list[str]:
        """Return the paths of this method's requests that hold `part`."""
        return [path for verb, path, _ in self.requests if verb == method and part in path]


class RegistryHandler(BaseHTTPRequestHandler):
    """Answers from a `RegistryState`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two writes
    state: RegistryState
    body_read = False

    def serve(self) -> None:
        """Answer one request: with the next fault of its kind, or by the rules."""
        self.body_read = False
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.state.requests.append((self.command, self.path, headers))
        path = urlsplit(self.path).path
        if path == "/token":
            self._token()
            return
        if self.state.tokens and not self._is_let_in():
            self.read_body()
            where = f"http://{self.state.address}/token"
            self.reply(401, headers={"WWW-Authenticate": f'Bearer realm="{where}",service="test"'})
            return
        faults = self.state.faults.get(f"{self.command} {_kind(path)}", [])
        if faults:
            faults.pop(0)(self)
            if not self.body_read and self.headers.get("Content-Length", "0") != "0":
                self.close_connection = True
            return
        self.answer()

    # The names that http.server asks for.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = serve  # noqa: N815

    def answer(self) -> None:
        """Answer by the rules."""
        path = urlsplit(self.path).path
        for pattern, method in (
            (_UPLOADS, self._begin),
            (_UPLOAD, self._upload),
            (_BLOB, self._blob),
            (_MANIFEST, self._manifest),
            (_REFERRERS, self._referrers),
        ):
            if found := pattern.fullmatch(path):
                method(*found.groups())
                return
        self.reply(200 if path == "/v2/" else 404)

    def read_body(self, most: int | None = None) -> bytes:
        """Return the request's body, or its first `most` bytes."""
        self.body_read = True
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length if most is None else min(most, length))
        self.state.received += len(data)
        return data

    def reply(self, code: int, data: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send an answer."""
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(data)

    def refuse(self, code: int, name: str) -> None:
        """Send an error with its name."""
        body = json.dumps({"errors": [{"code": name, "message": name.lower()}]}).encode()
        self.reply(code, body)

    def log_message(self, *_: Any) -> None:  # noqa: ANN401
        """Say nothing."""

    def _token(self) -> None:
        self.read_body()
        given = self.headers.get("Authorization", "")
        if self.state.user and given != self.state.user:
            self.refuse(401, "UNAUTHORIZED")
            return
        number = next(self.state.tokens_given)
        token = {"token": f"token{number}", "expires_in": self.state.life}
        self.reply(200, json.dumps(token).encode())

    def _is_let_in(self) -> bool:
        found = re.fullmatch(r"Bearer token(\d+)", self.headers.get("Authorization", ""))
        return found is not None and int(found[1]) > self.state.revoked

    def _begin(self, repository: str) -> None:
        self.read_body()
        query = parse_qs(urlsplit(self.path).query)
        digest, source = query.get("mount", [""])[0], query.get("from", [""])[0]
        if self.state.mounts and digest in self.state.blobs[source]:
            self.state.blobs[repository][digest] = self.state.blobs[source][digest]
            self.reply(201, headers={"Location": f"/v2/{repository}/blobs/{digest}"})
            return
        number = str(next(self.state.numbers))
        self.state.uploads[number] = Upload()
        place = f"/v2/{repository}/blobs/uploads/{number}-0"
        self.reply(202, headers={"Location": place, "Range": "0-0"})

    def _upload(self, repository: str, number: str, step: str) -> None:
        upload = self.state.uploads.get(number)
        if upload is None:
            self.read_body()
            self.refuse(404, "BLOB_UPLOAD_UNKNOWN")
            return
        if self.command == "GET":
            self._status(repository, number, 204)
            return
        if int(step) != upload.step:  # an old Location, as in oras-py#150
            self.read_body()
            self.refuse(400, "BLOB_UPLOAD_INVALID")
            return
        place = self.headers.get("Content-Range")
        if place and int(place.partition("-")[0]) != len(upload.data):
            self.read_body()
            self._status(repository, number, 416)
            return
        length = int(self.headers.get("Content-Length") or 0)
        while length and (piece := self.read_body(min(length, 1 << 16))):
            upload.data += piece
            length -= len(piece)
            if len(piece) < min(length, 1):
                break
        if length:  # the client has gone
            self.close_connection = True
            return
        if self.command == "PATCH":
            upload.step += 1
            self._status(repository, number, 202)
            return
        self._finish(repository, number, bytes(upload.data))

    def _finish(self, repository: str, number: str, data: bytes) -> None:
        digest = parse_qs(urlsplit(self.path).query)["digest"][0]
        del self.state.uploads[number]
        if _digest(data) != digest:
            self.refuse(400, "DIGEST_INVALID")
            return
        self.state.blobs[repository][digest] = data
        self.reply(201, headers={"Docker-Content-Digest": digest})

    def _status(self, repository: str, number: str, code: int) -> None:
        upload = self.state.uploads[number]
        end = max(len(upload.data) - 1, 0)
        place = f"/v2/{repository}/blobs/uploads/{number}-{upload.step}"
        self.reply(code, headers={"Location": place, "Range": f"0-{end}"})

    def _blob(self, repository: str, digest: str) -> None:
        data = self.state.blobs[repository].get(digest)
        if data is None:
            self.refuse(404, "BLOB_UNKNOWN")
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked:
            start = int(asked[1])
            place = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.reply(206, data[start:], {"Content-Range": place})
        else:
            self.reply(200, data)

    def _manifest(self, repository: str, name: str) -> None:
        there = self.state.manifests[repository]
        if self.command == "PUT":
            data = self.read_body()
            digest = _digest(data)
            there[digest] = there[name] = (self.headers["Content-Type"], data)
            headers = {"Docker-Content-Digest": digest}
            subject = json.loads(data).get("subject")
            if subject and self.state.referrers:
                headers["OCI-Subject"] = subject["digest"]
            self.reply(201, headers=headers)
        elif name in there:
            kind, data = there[name]
            self.reply(200, data, {"Content-Type": kind, "Docker-Content-Digest": _digest(data)})
        else:
            self.refuse(404, "MANIFEST_UNKNOWN")

    def _referrers(self, repository: str, digest: str) -> None:
        if not self.state.referrers:
            self.refuse(404, "NOT_FOUND")
            return
        found = []
        for name, (kind, data) in self.state.manifests[repository].items():
            document = json.loads(data)
            if (
                name.startswith("sha256:")
                and (document.get("subject") or {}).get("digest") == digest
            ):
                found.append(
                    {
                        "mediaType": kind,
                        "digest": name,
                        "size": len(data),
                        "artifactType": document.get("artifactType"),
                        "annotations": document.get("annotations", {}),
                    }
                )
        body = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": found}
        self.reply(200, json.dumps(body).encode(), {"Content-Type": _INDEX})


def cut_body(count: int) -> Fault:
    """Take `count` bytes of the body into the upload and break the connection."""

    def behave(handler: RegistryHandler) -> None:
        found = _UPLOAD.fullmatch(urlsplit(handler.path).path)
        data = handler.read_body(count)
        if found and (upload := handler.state.uploads.get(found[2])):
            upload.data += data
        handler.close_connection = True

    return behave


def cut_answer(count: int) -> Fault:
    """Promise the whole blob, send `count` bytes of it and break the connection."""

    def behave(handler: RegistryHandler) -> None:
        found = _BLOB.fullmatch(urlsplit(handler.path).path)
        data = handler.state.blobs[found[1]][found[2]] if found else b""
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        handler.send_response(206 if asked else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(data[start : start + count])
        handler.close_connection = True

    return behave


def lost_answer(handler: RegistryHandler) -> None:
    """Do what is asked, and break the connection without a word."""
    reply = handler.reply
    handler.reply = lambda *_, **__: None  # type: ignore[method-assign]
    handler.answer()
    handler.reply = reply  # type: ignore[method-assign]
    handler.close_connection = True


def status(code: int, name: str = "UNKNOWN", **headers: str) -> Fault:
    """Answer with a status."""

    def behave(handler: RegistryHandler) -> None:
        handler.read_body()
        body = json.dumps({"errors": [{"code": name, "message": name.lower()}]}).encode()
        handler.reply(code, body, {key.replace("_", "-"): value for key, value in headers.items()})

    return behave


@contextlib.contextmanager
def registry(
    tls: ssl.SSLContext | None = None,
    **settings: Any,  # noqa: ANN401
) -> Iterator[RegistryState]:
    """Run a registry on a free port of localhost."""
    state = RegistryState(**settings)
    with _running(type("Bound", (RegistryHandler,), {"state": state}), tls) as port:
        state.address = f"localhost:{port}"
        yield state


def _kind(path: str) -> str:
    if _UPLOADS.fullmatch(path):
        return "uploads"
    if _UPLOAD.fullmatch(path):
        return "upload"
    if _BLOB.fullmatch(path):
        return "blob"
    if _MANIFEST.fullmatch(path):
        return "manifest"
    return "referrers" if _REFERRERS.fullmatch(path) else "ping"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
