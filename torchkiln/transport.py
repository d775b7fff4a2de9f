"""Open and read URLs as pip does, and tell failures that may pass from those that will not."""

from __future__ import annotations

import base64
import contextlib
import http.client
import netrc
import random
import re
import ssl
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, LocationValueError, ProxyError

from torchkiln import urls
from torchkiln.connect import Connections
from torchkiln.errors import FetchError
from torchkiln.progress import say
from torchkiln.urls import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torchkiln.pipconf import PipConfig

T = TypeVar("T")

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 10
_MAY_PASS: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})

_LONGEST_PAUSE: Final = 120.0
"""Seconds; a server that asks for more is taken for one that does not serve."""


class TransientError(Exception):
    """A failure that may pass; `pause` is the wait in seconds that the server asked for."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause


class CancelledFetchError(Exception):
    """The fetch was given up by its owner; a thread that sees this just ends."""


class StatusError(FetchError):
    """The server gave a definite answer that is no file: 403, 404."""

    def __init__(self, url: str, status: int) -> None:
        phrase = http.client.responses.get(status, "")
        super().__init__(f"cannot fetch {redact(url)}", f"HTTP {status} {phrase}".strip())
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Page:
    """A small resource, whole; `url` is where redirects led, `kind` its media type."""

    url: str
    kind: str
    data: bytes


class Transport:
    """Opens URLs; safe to use from several threads. `stop` tells that it was cancelled.

    `first_pause` (seconds) is the pause before the first retry; it doubles with each.
    """

    doing = "fetch"

    def __init__(
        self, config: PipConfig, environ: Mapping[str, str], first_pause: float = 0.5
    ) -> None:
        self.stop = threading.Event()
        self._active: weakref.WeakSet[urllib3.BaseHTTPResponse] = weakref.WeakSet()
        self._retries = config.retries
        self._environ = environ
        self._first_pause = first_pause
        self._connections = Connections(config, environ)
        # An index's credentials hold for the files on its host, as in pip.
        indexes = (config.index_url, *config.extra_index_urls, *config.find_links)
        self._credentials = {urls.origin(url): urls.userinfo(url) for url in reversed(indexes)}

    def open(self, url: str, headers: Mapping[str, str]) -> tuple[str, urllib3.BaseHTTPResponse]:
        """Return the URL after redirects and its response (200 or 206), the body still unread.

        `TransientError` means that trying again can help, `FetchError` that it cannot.
        """
        first = url
        for _ in range(_MOST_REDIRECTS):
            response = self._request(url, headers)
            self._active.add(response)
            if self.stop.is_set():
                response.close()
                raise CancelledFetchError
            if response.status in {200, 206}:
                return url, response
            response.close()
            if response.status not in _REDIRECTS:
                raise refusal(url, response)
            target = urljoin(url, response.headers.get("Location", ""))
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                what = f"cannot fetch {redact(first)}"
                raise FetchError(what, f"it redirects from https to {redact(target)}")
            url = target
        what = f"cannot fetch {redact(first)}"
        raise FetchError(what, f"more than {_MOST_REDIRECTS} redirects")

    def read(self, url: str, accept: str = "*/*") -> Page:
        """Return the resource at `url`, http(s) or file; what may pass is tried again."""
        if urls.is_file(url):
            try:
                return Page(url=url, kind="", data=urls.local_path(url).read_bytes())
            except OSError as error:
                what = f"cannot read {url}"
                raise FetchError(what, error.strerror or str(error)) from None
        return self.retrying(lambda: self._read(url, accept), redact(url))

    def cancel(self) -> None:
        """End what is under way in other threads, also what waits for bytes."""
        self.stop.set()
        for response in list(self._active):
            # Each of these errors says that the response has ended by itself.
            with contextlib.suppress(ValueError, RuntimeError, OSError):
                response.shutdown()

    def close(self) -> None:
        """Close all idle connections."""
        self._connections.close()

    def retrying(self, operation: Callable[[], T], label: str) -> T:
        """Return what `operation` gives, tried again after each `TransientError`.

        As often as pip's `retries` says. Pauses double, with jitter, unless the server names one.
        """
        attempt = 1
        while True:
            try:
                return operation()
            except TransientError as error:
                self.wait(error, attempt, label)
            attempt += 1

    def wait(self, failure: TransientError, attempt: int, label: str) -> None:
        """Wait before the try after the failed try `attempt` (from 1); raise if there is none."""
        what = f"cannot {self.doing} {label}"
        pause = failure.pause
        if pause is None:
            pause = self._first_pause * 2 ** (attempt - 1) * random.uniform(0.5, 1)  # noqa: S311
        if pause > _LONGEST_PAUSE:
            raise FetchError(what, f"{failure}\nthe server asks to wait for {pause:.0f} s")
        if attempt > self._retries:
            raise FetchError(what, f"{failure} (tries: {attempt})")
        tries = f"try {attempt} of {self._retries + 1}"
        say(f"{label}: {failure} ({tries}), trying again in {pause:.1f} s")
        if self.stop.wait(pause):
            raise CancelledFetchError

    def _read(self, url: str, accept: str) -> Page:
        final, response = self.open(url, {"Accept": accept, "Accept-Encoding": "gzip"})
        try:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
            return Page(url=final, kind=kind, data=response.data)
        except HTTPError as error:
            raise broken(url, error) from None

    def _request(
        self,
        url: str,
        headers: Mapping[str, str],
        method: str = "GET",
        body: Iterable[bytes] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        sent = {"User-Agent": "torchkiln", **self._authorization(url), **headers}
        try:
            return self._connections.pool(url).request(
                method,
                urls.plain(url),
                headers=sent,
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
            )
        except LocationValueError as error:
            what = f"cannot {self.doing} {redact(url)}"
            raise FetchError(what, redact(str(error))) from None
        except HTTPError as error:
            raise broken(url, error) from None

    def _authorization(self, url: str) -> dict[str, str]:
        found = urls.userinfo(url) or self._credentials.get(urls.origin(url)) or self._netrc(url)
        if not found:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(found.encode()).decode()}

    def _netrc(self, url: str) -> str | None:
        """Return user:password from the user's netrc file; one that cannot be read has none."""
        path = self._environ.get("NETRC") or Path(self._environ.get("HOME", "/"), ".netrc")
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if found := netrc.netrc(str(path)).authenticators(urlsplit(url).hostname or ""):
                return f"{found[0]}:{found[2]}"
        return None


def broken(url: str, error: HTTPError) -> FetchError | TransientError:
    """Return the exception for a connection that failed; a bad certificate will stay bad."""
    reasons = [error, *error.args, getattr(error, "original_error", None)]
    if any(isinstance(r, ssl.SSLCertVerificationError) for r in [*reasons, error.__cause__]):
        what = f"the certificate of {urlsplit(url).hostname} cannot be verified"
        hint = "name your CA file: export PIP_CERT=/path/to/ca.pem"
        return FetchError(what, redact(str(error)), hint)
    why = error.original_error if isinstance(error, ProxyError) else error
    # urllib3 starts with `HTTPSConnection(host='...', port=443): `; the URL is told already.
    text = re.sub(r"^\w+\([^()]*\): ", "", str(why.args[0] if why.args else why))
    if isinstance(error, ProxyError):
        text = f"unable to connect to the proxy: {text}"
    return TransientError(redact(text))


def refusal(url: str, response: urllib3.BaseHTTPResponse) -> StatusError | TransientError:
    """Return the exception for a status that is no success."""
    if response.status not in _MAY_PASS:
        return StatusError(url, response.status)
    pause = None
    if after := response.headers.get("Retry-After"):
        with contextlib.suppress(InvalidHeader):
            pause = urllib3.Retry().parse_retry_after(after)
    phrase = http.client.responses.get(response.status, "")
    return TransientError(f"HTTP {response.status} {phrase}".strip(), pause)
