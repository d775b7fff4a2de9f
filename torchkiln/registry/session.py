"""Requests to one registry: how it is reached, and the tokens that let us in.

Tokens as in the distribution project's token and OAuth2 specifications: a 401 names a realm, the
realm gives a token for scopes, the token lasts a minute or more and is renewed before it ends.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from urllib3.exceptions import HTTPError

from torchkiln import urls
from torchkiln.errors import FetchError, RegistryError
from torchkiln.pipconf import PipConfig
from torchkiln.registry import credentials
from torchkiln.transport import StatusError, TransientError, Transport, broken, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import urllib3

    from torchkiln.registry.credentials import Credential
    from torchkiln.registry.reference import Reference

_UNAUTHORIZED: Final = 401
_SHORTEST_LIFE: Final = 60  # seconds that a token lasts where none are told (token spec)
_RENEWED_AT: Final = 0.8  # of its life
_TIMEOUT: Final = 60.0
_LONGEST_MESSAGE: Final = 500
_HUB: Final = "docker.io"
_HUB_HOST: Final = "registry-1.docker.io"  # where Docker's own client goes for `docker.io`
_PULL_SCOPE: Final = "repository:{}:pull"


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """How a registry wants to be asked: `scheme` is `basic` or `bearer`."""

    scheme: str
    realm: str = ""
    service: str = ""


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
        used = self._token.header
        response = super()._request(url, headers, method, body)
        if response.status != _UNAUTHORIZED or not self._is_ours(url) or self._challenge is None:
            return response
        # The token ended early, or was taken back. One that was renewed meanwhile is tried first.
        response.close()
        with self._token.lock:
            if self._token.header == used:
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
            self._token.header, self._token.until = _basic(who) if who else "", float("inf")
            return
        document = self._fetch_token(challenge, who)
        secret = document.get("token") or document.get("access_token")
        if not secret:
            what = f"the registry's token service gave no token: {challenge.realm}"
            raise RegistryError(what)
        life = max(float(document.get("expires_in") or _SHORTEST_LIFE), 1.0)
        self._token.header = f"Bearer {secret}"
        self._token.until = time.monotonic() + life * _RENEWED_AT

    def _fetch_token(self, challenge: Challenge, who: Credential | None) -> dict[str, str]:
        if urlsplit(challenge.realm).scheme != "https" and self.base.startswith("https:"):
            what = f"{self.reference.registry} wants credentials sent without encryption"
            raise RegistryError(what, f"its realm is {challenge.realm}")
        query = [("service", challenge.service), *(("scope", one) for one in self._scopes)]
        if who and who.identity_token:
            form = dict(query) | {
                "grant_type": "refresh_token",
                "refresh_token": who.identity_token,
                "client_id": "torchkiln",
                "scope": " ".join(self._scopes),
            }
            data = urlencode(form).encode()
            kind = "application/x-www-form-urlencoded"
            headers = {"Content-Type": kind, "Content-Length": str(len(data))}
            response = self._ask_realm("POST", challenge.realm, headers, data)
        else:
            headers = {"Authorization": _basic(who)} if who else {}
            joint = "&" if "?" in challenge.realm else "?"
            response = self._ask_realm("GET", challenge.realm + joint + urlencode(query), headers)
        document: dict[str, str] = json.loads(response)
        return document

    def _ask_realm(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None = None
    ) -> bytes:
        """Return what the token service says; it is asked past `_authorization`, which waits."""

        def ask() -> bytes:
            body = (data,) if data else None
            response = Transport._request(self, url, headers, method, body)  # noqa: SLF001
            if response.status == 200:  # noqa: PLR2004
                return response.data
            response.close()
            raise refusal(url, response)

        try:
            return self.retrying(ask, urlsplit(url).netloc)
        except StatusError as error:
            raise denied(self.reference, error.status) from None


def denied(reference: Reference, status: int, message: str = "") -> RegistryError:
    """Return the error for a registry that will not let us in."""
    what = f"{reference.registry} refuses access to `{reference.repository}`"
    why = message or f"HTTP {status}"
    return RegistryError(what, why, f"docker login {reference.registry}")


def refused(reference: Reference, doing: str, response: urllib3.BaseHTTPResponse) -> RegistryError:
    """Return the error for an answer that is no success, with the registry's own words."""
    words = _words(response)
    if response.status in {_UNAUTHORIZED, 403}:
        return denied(reference, response.status, words)
    return RegistryError(f"cannot {doing}: {reference}", words)


@contextmanager
def reporting(doing: str) -> Iterator[None]:
    """Turn a connection that failed for good into a `RegistryError` that begins with `doing`."""
    try:
        yield
    except FetchError as error:
        why = "\n".join(part for part in (error.what, error.why) if part)
        what = f"cannot {doing}"
        raise RegistryError(what, why, error.hint) from error


def _words(response: urllib3.BaseHTTPResponse) -> str:
    """Return status and the errors that the registry tells (distribution-spec: error codes)."""
    lines = [f"HTTP {response.status} {response.reason or ''}".strip()]
    try:
        errors = json.loads(response.data).get("errors") or []
        lines += [f"{error.get('code', '')}: {error.get('message', '')}" for error in errors]
    except (ValueError, AttributeError):
        pass
    return urls.redact("\n".join(lines))[:_LONGEST_MESSAGE]


def _challenge(response: urllib3.BaseHTTPResponse) -> Challenge | None:
    """Return what a 401 demands (RFC 7235); None for a registry that is open."""
    if response.status != _UNAUTHORIZED:
        return None
    scheme, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    return Challenge(
        scheme=scheme.lower(), realm=fields.get("realm", ""), service=fields.get("service", "")
    )


def _basic(who: Credential) -> str:
    return "Basic " + base64.b64encode(f"{who.user}:{who.secret}".encode()).decode()


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
    found = [place / host for place in places if (place / host).is_dir()]
    authorities = [path for folder in found for path in sorted(folder.glob("*.crt"))]
    clients = [path for folder in found for path in sorted(folder.glob("*.cert"))]
    return PipConfig(
        index_url="",
        cert=str(authorities[0]) if authorities else None,
        client_cert=str(clients[0]) if clients else None,
        timeout=_TIMEOUT,
    )
