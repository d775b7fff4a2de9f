"""Bring one file, known by its sha256, into a partial file that survives breaks and kills."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, BinaryIO, Final

from urllib3.exceptions import HTTPError

from torchkiln import flock
from torchkiln.errors import FetchError
from torchkiln.files import open_own
from torchkiln.progress import say
from torchkiln.transport import (
    CancelledFetchError,
    StatusError,
    TransientError,
    Transport,
    broken,
)
from torchkiln.urls import is_file, local_path, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import urllib3

_CHUNK: Final = 1 << 18


class MismatchError(FetchError):
    """The bytes are not the locked ones; the partial file has been emptied."""


class Partial:
    """The first `position` bytes of a locked file, hashed, on disk.

    `received` counts what was written in this run. `pieced` tells that not all bytes came in one
    response. `report` hears of each change of `position`, also of what was there at the start.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        label: str,
        size: int,
        sha256: str,
        report: Callable[[int], None],
    ) -> None:
        self.label = label
        self.position = 0
        self.received = 0
        self._stream = stream
        self._size = size
        self._sha256 = sha256
        self._report = report
        self._hash = hashlib.sha256()
        if os.fstat(stream.fileno()).st_size > size:
            self.restart()
        while chunk := stream.read(_CHUNK):
            self._count(chunk)
        self.pieced = self.position > 0

    @property
    def is_complete(self) -> bool:
        """Tell whether as many bytes are there as the lock says."""
        return self.position == self._size

    @property
    def is_locked(self) -> bool:
        """Tell whether these are the locked bytes."""
        return self._hash.hexdigest() == self._sha256

    def expect(self, total: str | None) -> None:
        """Raise `MismatchError` if a server tells another length of the whole than the lock."""
        if total is not None and total.isdecimal() and int(total) != self._size:
            why = f"it has {total} bytes, the lock says {self._size}"
            raise self.mismatch(why)

    def write(self, chunk: bytes) -> None:
        """Append `chunk`; more bytes than the lock says raise `MismatchError`."""
        if self.position + len(chunk) > self._size:
            why = f"it has more than the {self._size} bytes that the lock says"
            raise self.mismatch(why)
        self._stream.write(chunk)
        self.received += len(chunk)
        self._count(chunk)

    def restart(self) -> None:
        """Throw away what is there."""
        self._stream.seek(0)
        self._stream.truncate()
        self._report(-self.position)
        self.position, self.pieced = 0, False
        self._hash = hashlib.sha256()

    def mismatch(self, why: str = "") -> MismatchError:
        """Throw away what is there and return the error that says why; by default its hash."""
        why = why or f"its sha256 is {self._hash.hexdigest()}, the lock says {self._sha256}"
        self.restart()
        return MismatchError(f"not the locked bytes: {self.label}", why)

    def _count(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.position += len(chunk)
        self._report(len(chunk))


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[BinaryIO]:
    """Give the partial file at `path` to one process at a time; the others wait.

    The file's own lock serves: it ends with its process and leaves nothing behind. Who has waited
    may hold a file that its former owner has since moved to the store; that one is let go.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    message = f"waiting for another process that fetches {path.name}"
    while True:
        with os.fdopen(_open(path), "r+b") as stream:
            flock.acquire(stream.fileno(), waiting=lambda: say(message))
            if _names(path, stream):
                os.fchmod(stream.fileno(), 0o644)
                yield stream
                return


def _open(path: Path) -> int:
    """Open or make the file for writing, which a lock on NFS needs (flock(2))."""
    try:
        return open_own(path, os.O_RDWR | os.O_CREAT)
    except PermissionError:
        # Read-only while it is on its way into the store, or where that was killed.
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o644)
        return open_own(path, os.O_RDWR | os.O_CREAT)


def _names(path: Path, stream: BinaryIO) -> bool:
    """Tell whether `path` still is the name of the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def download(
    transport: Transport,
    url: str,
    *,
    size: int,
    sha256: str,
    stream: BinaryIO,
    report: Callable[[int], None],
) -> int:
    """Complete the partial file `stream` from `url`, http(s) or file, and check its hash.

    Return the number of bytes that came. What can pass is tried again from where it broke.
    `MismatchError` means other bytes than the locked ones; other `FetchError`s leave what has
    come in the file, for the next run.
    """

    def counted(count: int) -> None:
        if transport.stop.is_set():
            raise CancelledFetchError
        report(count)

    partial = Partial(stream, label=redact(url), size=size, sha256=sha256, report=counted)
    _fill(transport, url, partial)
    if partial.pieced and not partial.is_locked:
        # The older piece may be the bad one: once more, in one piece if the server lets us.
        say(f"{partial.label}: its parts do not fit together, starting again")
        partial.restart()
        _fill(transport, url, partial)
    if not partial.is_locked:
        raise partial.mismatch()
    stream.flush()
    return partial.received


def _fill(transport: Transport, url: str, partial: Partial) -> None:
    """Append to `partial` until it is complete."""
    if is_file(url):
        _copy(url, partial)
        return
    etags: list[str] = []
    transport.retrying(lambda: _attempt(transport, url, partial, etags), partial.label)


def _copy(url: str, partial: Partial) -> None:
    partial.restart()
    try:
        source = local_path(url).open("rb")
    except OSError as error:
        what = f"cannot read {url}"
        raise FetchError(what, error.strerror or str(error)) from error
    with source:
        partial.expect(str(os.fstat(source.fileno()).st_size))
        while chunk := source.read(_CHUNK):
            partial.write(chunk)


def _attempt(transport: Transport, url: str, partial: Partial, etags: list[str]) -> None:
    """Make one request for what is missing and write what comes; keep the ETag in `etags`."""
    if partial.is_complete:
        return
    try:
        _, response = transport.open(url, _headers(partial, etags))
    except StatusError as error:
        if error.status != 416:  # noqa: PLR2004
            raise
        partial.restart()
        what = "the server cannot resume"
        raise TransientError(what) from None
    try:
        _place(response, partial)
        # RFC 9110, 13.1.5: a weak ETag must not be sent in If-Range.
        etags[:] = [tag for tag in response.headers.getlist("ETag") if tag.startswith('"')]
        while chunk := response.read1(_CHUNK, decode_content=False):
            partial.write(chunk)
    except HTTPError as error:
        raise broken(url, error) from None
    finally:
        response.close()
    if not partial.is_complete:
        what = f"the server stopped at {partial.position} bytes"
        raise TransientError(what)


def _headers(partial: Partial, etags: list[str]) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if partial.position:
        headers["Range"] = f"bytes={partial.position}-"
        if etags:
            headers["If-Range"] = etags[0]
    return headers


def _place(response: urllib3.BaseHTTPResponse, partial: Partial) -> None:
    """Make `partial` fit what the response starts with; refuse a file of another length."""
    start, total = 0, response.headers.get("Content-Length")
    if response.status == 206:  # noqa: PLR2004
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        start, total = (int(match[1]), match[2]) if match else (-1, None)
    if start != partial.position:
        partial.restart()
        if start:
            what = "the server answered with another range than was asked for"
            raise TransientError(what)
    partial.pieced = start > 0
    partial.expect(total)
