"""Bring one blob to a registry: look, mount, send whole or in chunks, resume after breaks.

distribution-spec 1.1, "Pushing blobs". What registries do otherwise, and what is done about it:
some know no chunks (sent whole then), some take no large body (413: sent in chunks), some forget
an upload when a connection breaks (begun anew), some lose the answer to the last request (looked
for, before it is sent again).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final

from torchkiln.errors import ArchiveError, RegistryError
from torchkiln.layer import CHUNK
from torchkiln.registry.blobs import (
    ACCEPTED,
    BINARY,
    DONE,
    closing,
    exists,
    location,
    mount,
)
from torchkiln.registry.refusals import refused
from torchkiln.transport import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import urllib3

    from torchkiln.registry.blobs import Blob
    from torchkiln.registry.session import Session

WHOLE: Final = 64 << 20
"""Bytes up to which a blob goes in one request; larger ones go in chunks of this size."""

_SMALLEST: Final = 1 << 20
_MOST_RESTARTS: Final = 5
_NO_CHUNKS: Final = frozenset({405, 415, 501})
_GONE: Final = frozenset({400, 404, 409, 410})
_TOO_LARGE: Final = 413
_RANGE: Final = 416


class Outcome(Enum):
    """How a blob came to be in the registry."""

    PRESENT = "present"
    MOUNTED = "mounted"
    SENT = "sent"


def bring(
    session: Session, blob: Blob, sources: Iterable[str], advance: Callable[[int], object]
) -> Outcome:
    """See that the registry has `blob`; `sources` are repositories there that may have it too.

    `advance` hears of bytes that were sent, and of those that were sent in vain as less than none.
    """
    if exists(session, blob):
        return Outcome.PRESENT
    for source in sources:
        if location := mount(session, blob, source):
            if location == "mounted":
                return Outcome.MOUNTED
            # 202: not mounted, but this is an upload, which the registry expects us to use.
            _Upload(session, blob, advance, location).run()
            return Outcome.SENT
    _Upload(session, blob, advance).run()
    return Outcome.SENT


class _Upload:
    """One upload: where it goes (empty: not begun) and how many bytes the registry has."""

    def __init__(
        self, session: Session, blob: Blob, advance: Callable[[int], object], location: str = ""
    ) -> None:
        self._session = session
        self._blob = blob
        self._advance = advance
        self._location = location
        self._offset = 0
        self._chunk = WHOLE
        self._whole = blob.size <= WHOLE
        self._tried = False
        self._restarts = 0
        self._broken = False

    def run(self) -> None:
        """Send until the registry has the blob; give up after as many failures as a fetch."""
        failures, reached = 0, 0
        while True:
            try:
                if self._broken:
                    self._recover()
                if self._step():
                    return
            except TransientError as error:  # noqa: PERF203 - a request takes far longer
                self._broken = bool(self._location)
                self._tried = True
                failures = 1 if self._offset > reached else failures + 1
                reached = self._offset
                self._session.wait(error, failures, self._blob.label)

    def _step(self) -> bool:
        """Do the next request; tell whether it was the last."""
        if not self._location:
            if self._tried and exists(self._session, self._blob):
                return True  # only the last answer was lost
            self._begin()
        elif self._whole:
            return self._finish(self._offset, self._blob.size)
        elif self._offset < self._blob.size:
            self._send_chunk()
        else:
            return self._finish(0, 0)
        return False

    def _begin(self) -> None:
        url = self._session.url("blobs/uploads/")
        response = self._session.send("POST", url, {"Content-Length": "0"})
        if response.status != ACCEPTED:
            raise refused(self._session.reference, f"begin to send {self._blob.label}", response)
        self._move(location(url, response), 0)
        smallest = response.headers.get("OCI-Chunk-Min-Length", "")
        if smallest.isdecimal():
            self._chunk = max(self._chunk, int(smallest))

    def _send_chunk(self) -> None:
        start = self._offset
        end = min(start + self._chunk, self._blob.size)
        headers = {
            **BINARY,
            "Content-Length": str(end - start),
            "Content-Range": f"{start}-{end - 1}",
        }
        response = self._send("PATCH", self._location, headers, start, end)
        if response.status in DONE:
            # The registry may have taken less than it was sent, and says so.
            had = _received(response)
            self._move(location(self._location, response), end if had is None else min(had, end))
            self._advance(self._offset - end)
        else:
            self._advance(start - end)
            self._adapt(response)

    def _finish(self, start: int, end: int) -> bool:
        """Close the upload with the bytes from `start` to `end`; tell whether that was all."""
        url = closing(self._location, self._blob.digest)
        headers = {**BINARY, "Content-Length": str(end - start)}
        response = self._send("PUT", url, headers, start, end)
        if response.status in DONE:
            self._check(response)
            return True
        self._advance(start - end)
        self._adapt(response)
        return False

    def _send(
        self, method: str, url: str, headers: dict[str, str], start: int, end: int
    ) -> urllib3.BaseHTTPResponse:
        sent = 0

        def body() -> Iterator[bytes]:
            nonlocal sent
            for piece in _read(self._blob.path, start, end):
                yield piece
                sent += len(piece)
                self._advance(len(piece))

        try:
            return self._session.send(method, url, headers, body if end > start else None)
        except BaseException:
            self._advance(-sent)
            raise

    def _adapt(self, response: urllib3.BaseHTTPResponse) -> None:
        """Go on in another way after a refusal, or raise `RegistryError`."""
        if response.status == _RANGE and (had := _received(response)):
            self._count_restart(response)
            self._move(location(self._location, response), had)
        elif response.status == _RANGE or (response.status == _TOO_LARGE and self._shrink()):
            self._restart(response)
        elif response.status in _NO_CHUNKS and not self._whole:
            self._whole = True
            self._restart(response)
        elif response.status in _GONE and not _is_wrong_digest(response):
            self._restart(response)
        else:
            self._refuse(response)

    def _shrink(self) -> bool:
        """Make requests smaller; tell whether they were not at their smallest."""
        chunk = min(self._chunk, self._blob.size) // 4
        self._whole, self._chunk = False, max(chunk, _SMALLEST)
        return chunk >= _SMALLEST

    def _recover(self) -> None:
        """Ask what the registry has of a broken upload, and go on from there or from nothing."""
        response = self._session.send("GET", self._location)
        had = _received(response)
        if response.status == 204 and had and not self._whole:  # noqa: PLR2004
            self._move(location(self._location, response), had)
        else:
            # A whole upload that broke, or one that is gone, perhaps because it was complete.
            self._location, self._offset = "", 0
        self._broken = False

    def _restart(self, response: urllib3.BaseHTTPResponse) -> None:
        self._count_restart(response)
        self._location, self._offset = "", 0

    def _count_restart(self, response: urllib3.BaseHTTPResponse) -> None:
        self._restarts += 1
        if self._restarts > _MOST_RESTARTS:
            self._refuse(response)

    def _move(self, location: str, offset: int) -> None:
        self._location, self._offset = location, offset

    def _check(self, response: urllib3.BaseHTTPResponse) -> None:
        """Refuse a registry that says it has kept something else."""
        kept = response.headers.get("Docker-Content-Digest", self._blob.digest)
        if kept != self._blob.digest:
            what = f"the registry has kept something else than {self._blob.label}"
            raise RegistryError(what, f"{self._blob.digest} was sent, it says {kept}")

    def _refuse(self, response: urllib3.BaseHTTPResponse) -> None:
        raise refused(self._session.reference, f"send {self._blob.label}", response)


def _received(response: urllib3.BaseHTTPResponse) -> int | None:
    """Return how many bytes the registry has, by its `Range: 0-LAST`; None if it does not say."""
    found = re.fullmatch(r"(?:bytes=)?0-([1-9]\d*)", response.headers.get("Range", ""))
    # `0-0` is one byte by the letter, and what registries say of none.
    return int(found[1]) + 1 if found else None


def _is_wrong_digest(response: urllib3.BaseHTTPResponse) -> bool:
    return b"DIGEST_INVALID" in response.data


def _read(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        while start < end:
            piece = stream.read(min(CHUNK, end - start))
            if not piece:
                what = f"a file in the store is shorter than it was: {path.name}"
                raise ArchiveError(what, hint="build or pull it again")
            start += len(piece)
            yield piece
