"""Blobs in a registry, one request each: look for one, mount it, put a small one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urljoin, urlsplit

from torchkiln.registry.refusals import refused

if TYPE_CHECKING:
    from pathlib import Path

    import urllib3

    from torchkiln.registry.session import Session

_OK: Final = 200
CREATED: Final = 201
ACCEPTED: Final = 202
DONE: Final = frozenset({CREATED, ACCEPTED, 204})
BINARY: Final = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A file that is to be in a registry; `sha256` is hex, `size` in bytes, `label` for people."""

    path: Path
    sha256: str
    size: int
    label: str

    @property
    def digest(self) -> str:
        """Return the digest as registries write it."""
        return f"sha256:{self.sha256}"


def exists(session: Session, blob: Blob) -> bool:
    """Tell whether the registry has the blob, whole."""
    response = session.answer("HEAD", f"blobs/{blob.digest}")
    if response.status == _OK:
        size = response.headers.get("Content-Length", "")
        return not size.isdecimal() or int(size) == blob.size
    if response.status == 404:  # noqa: PLR2004
        return False
    raise refused(session.reference, f"look for {blob.label}", response)


def put_bytes(session: Session, data: bytes) -> None:
    """See that the registry has these few bytes as a blob."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if session.answer("HEAD", f"blobs/{digest}").status == _OK:
        return
    started = session.answer("POST", "blobs/uploads/", {"Content-Length": "0"})
    if started.status != ACCEPTED:
        raise refused(session.reference, "begin to send a document", started)
    url = closing(location(session.url("blobs/uploads/"), started), digest)
    sent = {**BINARY, "Content-Length": str(len(data))}
    response = session.retrying(lambda: session.send("PUT", url, sent, lambda: (data,)), digest)
    # A 404 is for an upload whose first answer was lost: then the bytes are there.
    if response.status not in DONE and (session.answer("HEAD", f"blobs/{digest}").status != _OK):
        raise refused(session.reference, "send a document", response)


def closing(location: str, digest: str) -> str:
    """Return the URL that ends an upload."""
    joint = "&" if urlsplit(location).query else "?"
    return f"{location}{joint}{urlencode({'digest': digest})}"


def mount(session: Session, blob: Blob, source: str) -> str:
    """Return `mounted`, or the URL of an upload, or "" where the registry wants neither."""
    query = urlencode({"mount": blob.digest, "from": source})
    response = session.answer("POST", f"blobs/uploads/?{query}", {"Content-Length": "0"})
    if response.status == CREATED:
        return "mounted"
    if response.status == ACCEPTED:
        return location(session.url("blobs/uploads/"), response)
    return ""


def location(url: str, response: urllib3.BaseHTTPResponse) -> str:
    """Return where the upload goes on; a registry that does not say keeps its place."""
    return urljoin(url, response.headers.get("Location", "") or url)
