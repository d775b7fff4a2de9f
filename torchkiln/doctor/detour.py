"""Why a server is not reached, and which other way reaches it: that is what mends it."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from torchkiln.doctor.network import bundles, proxy_variable, send, way_to

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.doctor.facts import Subject
    from torchkiln.doctor.network import Reply, Way

_CAUSES: Final = {
    "name": "its name is not resolved: there is no DNS, or a proxy is needed",
    "connection": "it is not reached: there is no route, or a proxy is needed",
    "proxy": "every download goes to a proxy that does not answer",
    "gateway": "the proxy does not reach it",
    "login": "the proxy wants a user and a password",
    "socks": "pip speaks to a SOCKS proxy only where PySocks is installed",
    "bundle": "the file of certificates cannot be read, so that no server is believed",
    "certificate": "it, or a proxy before it, shows a certificate of a CA that is not known",
    "clock": "the clock of this machine is wrong, so that certificates seem too old or too new",
    "expired": "its certificate is not valid at this time, and the clock of this machine is right",
}
_SKEW: Final = 3600
"""Seconds. Certificates are made valid an hour or so before they are given out."""


def why(url: str, way: Way, reply: Reply) -> str:
    """Return the cause of the fault in `reply`, which came from `url`."""
    if reply.fault == "clock" and _clock_is_right(url, way):
        return _CAUSES["expired"]
    return _CAUSES[reply.fault]


def mend(subject: Subject, url: str, way: Way, reply: Reply, proxy_setting: str = "") -> str:
    """Return a shell command after which `url` is reached; what may do so has been tried.

    `proxy_setting` is the command that removes the proxy, where no variable names it.
    """
    environ = subject.environ
    if reply.fault in {"proxy", "gateway", "login", "socks"}:
        return _past_the_proxy(environ, url, way, reply, proxy_setting)
    if reply.fault in {"name", "connection"}:
        return _by_a_proxy(environ, url)
    if reply.fault == "clock" and not _clock_is_right(url, way):
        return "sudo timedatectl set-ntp true"
    return _with_certificates(subject, url, way)


def _past_the_proxy(
    environ: Mapping[str, str], url: str, way: Way, reply: Reply, proxy_setting: str
) -> str:
    variable = "PIP_PROXY" if proxy_setting else proxy_variable(url, environ)
    if not send(url, replace(way, proxy="")).fault:
        if proxy_setting:
            return proxy_setting
        # A proxy that answers may be the way to other places.
        spared = _spared(environ, url)
        return f"unset {_named(environ, variable)}" if reply.fault in {"proxy", "socks"} else spared
    host = urlsplit(way.proxy).netloc.rpartition("@")[2]
    new = f"USER:PASSWORD@{host}" if reply.fault == "login" else "PROXY:PORT"
    return f"export {variable}=http://{new}"


def _named(environ: Mapping[str, str], variable: str) -> str:
    """Return `variable` and those that would take its place: the same proxy."""
    names = dict.fromkeys((variable, variable.lower(), variable.upper(), "all_proxy", "ALL_PROXY"))
    return " ".join(name for name in names if environ.get(name) == environ[variable])


def _spared(environ: Mapping[str, str], url: str) -> str:
    name = "no_proxy" if environ.get("no_proxy") else "NO_PROXY"
    hosts = [*filter(None, [environ.get(name)]), urlsplit(url).hostname or ""]
    return f"export {name}={shlex.quote(','.join(hosts))}"


def _by_a_proxy(environ: Mapping[str, str], url: str) -> str:
    """Return what makes a proxy known, or makes use of it where NO_PROXY forbids that."""
    names = [name for name in ("no_proxy", "NO_PROXY") if environ.get(name)]
    others = {name: text for name, text in environ.items() if name not in names}
    way = way_to(url, others)
    if names and way.proxy and not send(url, way).fault:
        return f"unset {' '.join(names)}"
    return f"export {proxy_variable(url, environ)}=http://PROXY:PORT"


def _with_certificates(subject: Subject, url: str, way: Way) -> str:
    """Return what makes pip believe a file of certificates that this connection can do with."""
    for path in bundles(subject.root, subject.environ):
        other = replace(way, certificates=path, besides="")
        if path != way.certificates and not send(url, other).fault:
            return _believe(shlex.quote(path))
    return _believe("CA.pem")


def _believe(path: str) -> str:
    names = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
    return "export " + " ".join(f"{name}={path}" for name in names)


def _clock_is_right(url: str, way: Way) -> bool:
    """Compare the clock with the server's, which needs no certificate: it is asked no secret."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    said = send(bare, replace(way, trusted=True), method="HEAD").headers.get("date", "")
    try:
        return abs(parsedate_to_datetime(said).timestamp() - time.time()) < _SKEW
    except ValueError:
        return False
