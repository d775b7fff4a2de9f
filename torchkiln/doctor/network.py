"""How requests leave this machine, as pip's would: by which proxy, with which certificates."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

    from torchkiln.pipconf import PipConfig

PATIENCE: Final = 8.0
"""Seconds for each step of a connection."""

CA_VARIABLES: Final = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Which file of certificates pip takes: the first that is set (uv: the last)."""

PROXY_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY")
"""curl's own: HTTP_PROXY is none of them, because a CGI program's client could set it."""

SYSTEM_BUNDLES: Final = (
    *("etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt"),
    *("etc/ssl/ca-bundle.pem", "etc/ssl/cert.pem"),
)
"""Debian's and Ubuntu's, Fedora's and RHEL's, SUSE's, Alpine's."""

_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED of OpenSSL

Fault = Literal["", "proxy", "login", "name", "certificate", "clock", "connection"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How to reach a server: by the `proxy` with this URL, and believing the CAs of a file.

    Both are "" where there is none.
    """

    proxy: str = ""
    certificates: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back: a status and headers (by lower-case name), or the fault and its words."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    fault: Fault = ""
    words: str = ""


def way_to(url: str, environ: Mapping[str, str], config: PipConfig | None = None) -> Way:
    """Return the way that pip takes to `url`."""
    parts = urlsplit(url)
    names = [
        one for one in PROXY_VARIABLES if one.lower() in {f"{parts.scheme}_proxy", "all_proxy"}
    ]
    found = next((environ[name] for name in names if environ.get(name)), "")
    proxy = (config.proxy if config else "") or found
    if proxy and _is_spared(parts.hostname or "", environ):
        proxy = ""
    bundle = next((environ[name] for name in CA_VARIABLES if environ.get(name)), "")
    return Way(proxy=proxy, certificates=(config.cert if config else "") or bundle)


def _is_spared(host: str, environ: Mapping[str, str]) -> bool:
    """Tell whether NO_PROXY names `host` or a domain that it is in."""
    names = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")
    wanted = [name.strip().lstrip(".").partition(":")[0] for name in names if name.strip()]
    return "*" in wanted or any(host == name or host.endswith(f".{name}") for name in wanted)


def send(
    url: str, way: Way, headers: Mapping[str, str] | None = None, data: bytes | None = None
) -> Reply:
    """GET `url`, or POST `data` there, and return what came back; nothing is raised."""
    address, login = _without_login(url)
    request = Request(address, data, {**login, **(headers or {})})  # noqa: S310 - http alone
    try:
        opener = build_opener(
            ProxyHandler({"http": way.proxy, "https": way.proxy} if way.proxy else {}),
            HTTPSHandler(context=_context(way)),
        )
        with opener.open(request, timeout=PATIENCE) as answer:
            return _reply(answer.status, answer.headers, answer)
    except HTTPError as error:
        with error:
            return _reply(error.code, error.headers, error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _failed(error, way)


def _reply(status: int, headers: Message, stream: object) -> Reply:
    body = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        body = stream.read(1 << 16)  # type: ignore[attr-defined]
    return Reply(status=status, headers={k.lower(): v for k, v in headers.items()}, body=body)


def _context(way: Way) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=way.certificates or None)


def _without_login(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without user and password, and the header that takes their place."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    header = base64.b64encode(unquote(login).encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), (
        {"Authorization": f"Basic {header}"} if at else {}
    )


def _failed(error: Exception, way: Way) -> Reply:
    """Return what kind of failure it is; of two connections, that to the proxy is the one."""
    reason = error.reason if isinstance(error, URLError) else error
    words = str(reason) or type(reason).__name__
    if isinstance(reason, ssl.SSLCertVerificationError):
        clock = reason.verify_code in {_NOT_YET_VALID, _EXPIRED}
        return Reply(fault="clock" if clock else "certificate", words=reason.verify_message)
    if "407" in words:
        return Reply(fault="login", words=words)
    if way.proxy:
        return Reply(fault="proxy", words=words)
    if isinstance(reason, socket.gaierror):
        return Reply(fault="name", words=words)
    return Reply(fault="connection", words=words)


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
    return [one for one in dict.fromkeys(there) if Path(one).is_file()]
