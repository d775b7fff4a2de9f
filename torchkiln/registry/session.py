"""Requests to one registry: how it is reached, and who we are to it."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from urllib3.exceptions import HTTPError

from torchkiln import urls
from torchkiln.errors import FetchError, RegistryError
from torchkiln.pipconf import PipConfig
from torchkiln.registry import credentials
from torchkiln.registry.refusals import denied
from torchkiln.registry.tokens import basic, challenge_of, grant, token_request
from torchkiln.transport import StatusError, TransientError, Transport, broken, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import urllib3

    from torchkiln.registry.reference import Reference
    from torchkiln.registry.tokens import Challenge, TokenRequest

_UNAUTHORIZED: Final = 401
_TIMEOUT: Final = 60.0
_HUB: Final = "docker.io"
_HUB_HOST: Final = "registry-1.docker.io"  # where Docker's own client goes for `docker.io`
_PULL_SCOPE: Final = "repository:{}:pull"


@dataclass
class _Token:
    """What goes into `Authorization`, and until when (monotonic seconds)."""

    header: str = ""
    until: float = float("inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class Session(Transport):
    """A registry as one user sees it. Safe to use from several threads.

    `mounts` are repositories whose blobs may be mounted: their names go into the token's scopes,
    without which the registry refuses them. `plain` allows http; on loopback it is always tried
    where https is not spoken.
    """

    doing = "reach"

    def __init__(
        self,
        reference: Reference,
        environ: Mapping[str, str],
        *,
        push: bool = False,
        mounts: Iterable[str] = (),
        plain: bool = False,
        first_pause: float = 0.5,
    ) -> None:
        super().__init__(_settings(reference.registry, environ), environ, first_pause)
        self.reference = reference
        own = f"repository:{reference.repository}:pull" + (",push" if push else "")
        self._scopes = (own, *(_PULL_SCOPE.format(name) for name in mounts))
        self._environ = environ
        self._plain = plain
        self._token = _Token()
        self._challenge: Challenge | None = None
        self.base = ""
        self.base, challenge = self._probe()
        self._challenge = challenge
        self._credential = credentials.find(reference, environ) if challenge else None

    def url(self, path: str) -> str:
        """Return the URL of `path` in the repository, as in `blobs/sha256:...`."""
        return f"{self.base}/v2/{self.reference.repository}/{path}"

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Iterable[bytes]] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Return the answer, read whole, unless it is one that may pass: `TransientError`.

        Redirects are not followed. `body` gives what is sent; its length is in `headers`.
        """
        response = self._request(url, headers or {}, method, body and body())
        try:
            response.data  # noqa: B018 - reads it, so that the connection is free again
        except HTTPError as error:
            raise broken(url, error) from None
        if isinstance(failure := refusal(url, response), TransientError):
            raise failure
        return response

    def answer(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, data: bytes = b""
    ) -> urllib3.BaseHTTPResponse:
        """Return the registry's answer to a small request, tried again while it may pass."""
        sent = {**(headers or {}), **({"Content-Length": str(len(data))} if data else {})}
        body = (lambda: (data,)) if data else None
        url = self.url(path)
        return self.retrying(lambda: self.send(method, url, sent, body), url)

    def _request(
        self,
        url: str,
        headers: Mapping[str, str],
        method: str = "GET",
        body: Iterable[bytes] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        used = self._authorization(url)
        response = super()._request(url, {**headers, **used}, method, body)
        if response.status != _UNAUTHORIZED or not self._is_ours(url) or self._challenge is None:
            return response
        # The token ended early, or was taken back. One that was renewed meanwhile is tried first.
        response.close()
        with self._token.lock:
            if used == {"Authorization": self._token.header}:
                self._token.until = 0.0
        if body is not None:
            what = "the registry wants a new token"
            raise TransientError(what, pause=0.0)
        return super()._request(url, headers, method, body)

    def _authorization(self, url: str) -> dict[str, str]:
        # Redirects lead to storage elsewhere, which has no business with our token.
        if not self._is_ours(url) or self._challenge is None:
            return {}
        with self._token.lock:
            if not self._token.header or time.monotonic() >= self._token.until:
                self._renew(self._challenge)
            return {"Authorization": self._token.header} if self._token.header else {}

    def _is_ours(self, url: str) -> bool:
        """Tell whether a token belongs into a request: its service may be on the same host."""
        realm = self._challenge.realm if self._challenge else ""
        is_realm = bool(realm) and url.startswith(realm)
        return urls.origin(url) == urls.origin(self.base) and not is_realm

    def _probe(self) -> tuple[str, Challenge | None]:
        """Return the registry's base URL and what it demands, from its answer to `/v2/`."""
        host = _HUB_HOST if self.reference.registry == _HUB else self.reference.registry
        if self._plain or self.reference.is_loopback:
            with suppress(TransientError, FetchError):
                return f"https://{host}", _challenge(self.send("GET", f"https://{host}/v2/"))
        scheme = "http" if self._plain or self.reference.is_loopback else "https"
        url = f"{scheme}://{host}/v2/"
        response = self.retrying(lambda: self.send("GET", url), url)
        return f"{scheme}://{host}", _challenge(response)

    def _renew(self, challenge: Challenge) -> None:
        """Set what goes into `Authorization`; called with the lock held."""
        who = self._credential
        if challenge.scheme == "basic":
            self._token.header, self._token.until = basic(who) if who else "", float("inf")
            return
        if urlsplit(challenge.realm).scheme != "https" and self.base.startswith("https:"):
            what = f"{self.reference.registry} wants credentials sent without encryption"
            raise RegistryError(what, f"its realm is {challenge.realm}")
        given = grant(challenge, self._ask(token_request(challenge, who, self._scopes)))
        self._token.header, self._token.until = given.header, time.monotonic() + given.seconds

    def _ask(self, wanted: TokenRequest) -> bytes:
        """Return what the token service says; it is asked past `_authorization`, which waits."""

        def ask() -> bytes:
            body = (wanted.data,) if wanted.data else None
            request = super(Session, self)._request
            response = request(wanted.url, wanted.headers, wanted.method, body)
            if response.status == 200:  # noqa: PLR2004
                return response.data
            response.close()
            raise refusal(wanted.url, response)

        try:
            return self.retrying(ask, urlsplit(wanted.url).netloc)
        except StatusError as error:
            raise denied(self.reference, error.status) from None


def _settings(host: str, environ: Mapping[str, str]) -> PipConfig:
    """Return how the host is reached: Docker's `certs.d` names a CA and a client's certificate.

    The rest (proxies, REQUESTS_CA_BUNDLE, SSL_CERT_FILE) is in the environment, as for `fetch`.
    """
    home = Path(environ.get("HOME") or "/")
    places = [
        home / ".docker/certs.d",
        Path("/etc/docker/certs.d"),
        Path("/etc/containers/certs.d"),
    ]
    found = [place / host for place in places if _is_folder(place / host)]
    authorities = [path for folder in found for path in sorted(folder.glob("*.crt"))]
    clients = [path for folder in found for path in sorted(folder.glob("*.cert"))]
    return PipConfig(
        index_url="",
        cert=str(authorities[0]) if authorities else None,
        client_cert=str(clients[0]) if clients else None,
        timeout=_TIMEOUT,
    )


def _is_folder(path: Path) -> bool:
    """Tell whether there is a folder; none is in a home that is closed to us."""
    try:
        return path.is_dir()
    except PermissionError:
        return False


def _challenge(response: urllib3.BaseHTTPResponse) -> Challenge | None:
    return challenge_of(response.status, response.headers.get("WWW-Authenticate", ""))
