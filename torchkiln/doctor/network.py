"""How requests leave this machine, as pip's would: by which proxy, with which certificates."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (  # type: ignore[attr-defined]
    HTTPRedirectHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
    proxy_bypass_environment,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

    from torchkiln.pipconf import PipConfig

PATIENCE: Final = 8.0
"""Seconds for each step of a connection."""

CA_VARIABLES: Final = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Which file of certificates pip takes: the first that is set (uv: the last).

The last one is OpenSSL's own, in the place of the system's: beside it pip believes its own file.
"""

SYSTEM_BUNDLES: Final = (
    *("etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt"),
    *("etc/ssl/ca-bundle.pem", "etc/ssl/cert.pem"),
)
"""Debian's and Ubuntu's, Fedora's and RHEL's, SUSE's, Alpine's."""

_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED of OpenSSL

_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d+)")  # of http.client
_LOGIN: Final = 407
_GATEWAY: Final = (502, 503, 504)
"""What a proxy answers that does not reach the server."""

Fault = Literal[
    "", "proxy", "gateway", "login", "socks", "name", "bundle", "certificate", "clock", "connection"
]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How to reach a server: by the `proxy` with this URL, and believing the CAs of a file.

    Each is "" where there is none; `certificates` may be a folder as `c_rehash` makes them, and
    the CAs in the file `besides` are believed too. A server that is `trusted` may show any
    certificate.
    """

    proxy: str = ""
    certificates: str = ""
    besides: str = ""
    trusted: bool = False


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back: a status and headers (by lower-case name), or the fault and its words."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    fault: Fault = ""
    words: str = ""


def way_to(
    url: str, environ: Mapping[str, str], config: PipConfig | None = None, besides: str = ""
) -> Way:
    """Return the way that pip takes to `url`; `besides` is the file of certificates of its own."""
    cert = config.cert if config else ""
    named = cert or next((environ[name] for name in CA_VARIABLES[:-1] if environ.get(name)), "")
    host, _, port = _without_login(url)[1].partition(":")
    trusted = set(config.trusted_hosts) if config else set()
    return Way(
        proxy=(config.proxy if config else "") or _proxy(url, environ),
        certificates=named or environ.get(CA_VARIABLES[-1], ""),
        besides="" if named else besides,
        trusted=not trusted.isdisjoint({host, f"{host}:{port or 443}"}),
    )


def _proxy(url: str, environ: Mapping[str, str]) -> str:
    """Return the proxy that variables name for `url`, unless NO_PROXY spares its host."""
    spared = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if proxy_bypass_environment(_without_login(url)[1], {"no": spared}):
        return ""
    proxy = environ.get(proxy_variable(url, environ), "")
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def proxy_variable(url: str, environ: Mapping[str, str]) -> str:
    """Return the variable that names the proxy for `url`, or would do so if it were set."""
    own = f"{urlsplit(url).scheme}_proxy"
    names = (own, own.upper(), "all_proxy", "ALL_PROXY")
    return next((name for name in names if environ.get(name)), own)


def send(
    url: str,
    way: Way,
    headers: Mapping[str, str] | None = None,
    data: bytes | None = None,
    method: str | None = None,
) -> Reply:
    """GET `url`, or POST `data` there, and return what came back; nothing is raised."""
    if urlsplit(way.proxy).scheme.startswith("socks"):
        return Reply(fault="socks", words="the doctor speaks to no SOCKS proxy")
    login, host = _without_login(url)
    address = urlunsplit(urlsplit(url)._replace(netloc=host))
    told = {**(basic(login) if login else {}), **(headers or {})}
    request = Request(address, data, told, method=method)  # noqa: S310 - http alone
    try:
        context = _context(way)
    except OSError as error:
        return Reply(fault="bundle", words=error.strerror or str(error))
    try:
        opener = build_opener(
            ProxyHandler({"http": way.proxy, "https": way.proxy} if way.proxy else {}),
            HTTPSHandler(context=context),
            _Redirects(),
        )
        with opener.open(request, timeout=PATIENCE) as answer:
            return _reply(answer.status, answer.headers, answer)
    except HTTPError as error:
        with error:
            return _refused(error, way)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _failed(error, way)


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, and takes a login to no other host, as pip and Docker do."""

    def redirect_request(self, req: Request, *rest: Any) -> Request | None:  # noqa: ANN401
        made = super().redirect_request(req, *rest)
        if made and urlsplit(made.full_url)[:2] != urlsplit(req.full_url)[:2]:
            made.remove_header("Authorization")
        return made


def _refused(error: HTTPError, way: Way) -> Reply:
    """Return the server's refusal, or the fault of the proxy that answered in its place."""
    if way.proxy and error.code in {_LOGIN, *_GATEWAY}:
        fault: Fault = "login" if error.code == _LOGIN else "gateway"
        return Reply(fault=fault, words=f"the proxy answers {error.code}")
    return _reply(error.code, error.headers, error)


def _reply(status: int, headers: Message, stream: object) -> Reply:
    body = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        body = stream.read(1 << 16)  # type: ignore[attr-defined]
    return Reply(status=status, headers={k.lower(): v for k, v in headers.items()}, body=body)


def _context(way: Way) -> ssl.SSLContext:
    path = way.certificates
    if way.trusted:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if path and Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    context = ssl.create_default_context(cafile=path or None)
    if way.besides:
        context.load_verify_locations(way.besides)
    return context


def _without_login(url: str) -> tuple[str, str]:
    """Return user and password of a URL, "" where it has none, and its host with the port."""
    login, _, host = urlsplit(url).netloc.rpartition("@")
    return unquote(login), host


def basic(login: str) -> dict[str, str]:
    """Return the header that tells a `login`, user:password (RFC 7617)."""
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def _failed(error: Exception, way: Way) -> Reply:
    """Return what kind of failure it is; of two connections, that to the proxy is the one."""
    reason = error.reason if isinstance(error, URLError) else error
    words = str(reason) or type(reason).__name__
    if isinstance(reason, ssl.SSLCertVerificationError):
        clock = reason.verify_code in {_NOT_YET_VALID, _EXPIRED}
        return Reply(fault="clock" if clock else "certificate", words=reason.verify_message)
    if tunnel := _TUNNEL.match(words):
        fault: Fault = "login" if int(tunnel[1]) == _LOGIN else "gateway"
        return Reply(fault=fault, words=f"the proxy answers {tunnel[1]}")
    if way.proxy:
        return Reply(fault="proxy", words=words)
    if isinstance(reason, socket.gaierror):
        return Reply(fault="name", words=words)
    return Reply(fault="connection", words=words)


def bad_certificates(path: str) -> str:
    """Return why the file or folder at `path` gives no certificates of CAs, "" where it does."""
    try:
        _context(Way(certificates=path))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def is_alone() -> bool:
    """Tell whether there is no network but the machine's own, as in a container without one."""
    try:
        return {name for _, name in socket.if_nameindex()} <= {"lo"}
    except OSError:
        return False


def bundles(root: Path, environ: Mapping[str, str]) -> list[str]:
    """Return the files of certificates that there are: what variables name, then the system's."""
    named = [environ[name] for name in CA_VARIABLES if environ.get(name)]
    there = [*named, *(str(root / name) for name in SYSTEM_BUNDLES)]
    return [one for one in dict.fromkeys(there) if Path(one).exists()]
