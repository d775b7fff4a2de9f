"""The way to the package indexes: certificates, proxy, name, login, limits."""

from __future__ import annotations

import netrc
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from torchkiln import pipconf
from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.detour import mend, why
from torchkiln.doctor.installer import INDEX
from torchkiln.doctor.network import (
    CA_VARIABLES,
    bad_certificates,
    basic,
    is_alone,
    send,
    way_to,
)
from torchkiln.doctor.settings import change, pip
from torchkiln.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts
    from torchkiln.doctor.network import Reply, Way
    from torchkiln.pipconf import PipConfig

_TOO_MANY: Final = 429
_MISSING: Final = 404
_REFUSED: Final = (401, 403)
_ILL: Final = 500


@check("ca-file", area="network", rank=80)
def ca_file(facts: Facts) -> Outcome:
    """Read the certificates of CAs that variables name."""
    environ = facts.subject.environ
    named = {name: environ[name] for name in CA_VARIABLES if environ.get(name)}
    bad = {name: found for name, path in named.items() if (found := bad_certificates(path))}
    if not bad:
        return ok(f"{', '.join(named)}: certificates" if named else "no variable names any")
    name = next(iter(bad))
    return problem(
        f"{name} names {named[name]}: {bad[name]}",
        cause="without the certificates of CAs no HTTPS connection can be made",
        remedy=f"unset {' '.join(bad)}",
        link="psf/requests#4171",
    )


@check("package-index", area="network", rank=82)
def package_index(facts: Facts) -> Outcome:
    """Ask the package index that pip is configured with for torch."""
    try:
        config = _config(facts)
    except FetchError as error:
        return _unread(facts, error)
    url = config.index_url if config else _index_of_uv(facts.subject.environ)
    if not url.startswith(("http:", "https:")) or (config and config.no_index):
        return skipped("no pip, or no setting, says where a package index is")
    page = f"{url.rstrip('/')}/torch/"
    way = _way(facts, page, config)
    reply = send(page, way, _login(page, facts.subject.environ))
    if reply.fault in {"name", "connection"} and not way.proxy and is_alone():
        return skipped("this machine, or container, has no network")
    if reply.fault:
        return _unreached(facts, page, way, reply, config)
    return _answered(facts, url, reply, config)


def _config(facts: Facts) -> PipConfig | None:
    found = facts.environment
    if found is None or not found.find("pip"):
        return None
    return pipconf.read(facts.subject.environ, str(found.python))


def _index_of_uv(environ: Mapping[str, str]) -> str:
    return environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or ""


def _unread(facts: Facts, error: FetchError) -> Outcome:
    """Say what is wrong with pip's configuration; it names the file or the option itself."""
    file = re.search(r"file: '(.+?)', line:", error.why)
    option = re.search(r"option ([\w-]+):", error.why)
    remedy = pip(facts, "config debug")
    if file:
        remedy = f"mv {shlex.quote(file[1])} {shlex.quote(file[1] + '.broken')}"
    elif option:
        remedy = f"unset PIP_{option[1].upper().replace('-', '_')}"
    cause = "pip reads its configuration before it does anything"
    return problem(" ".join(error.why.split()) or error.what, cause=cause, remedy=remedy)


def _way(facts: Facts, url: str, config: PipConfig | None) -> Way:
    """Return the way to `url`; pip brings certificates of its own."""
    found = facts.environment.find("pip") if facts.environment else None
    own = found.folder / "pip/_vendor/certifi/cacert.pem" if found else None
    besides = str(own) if own and own.is_file() else ""
    return way_to(url, facts.subject.environ, config, besides)


def _login(url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the header with the login that ~/.netrc has for the host, as pip looks for it."""
    path = Path(environ.get("NETRC") or Path(environ.get("HOME") or "/") / ".netrc")
    try:
        found = netrc.netrc(path).authenticators(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return {}
    if not found or "@" in urlsplit(url).netloc:
        return {}
    return basic(f"{found[0]}:{found[2]}")


def _unreached(facts: Facts, url: str, way: Way, reply: Reply, config: PipConfig | None) -> Outcome:
    environ, found = facts.subject.environ, facts.environment
    pysocks = found and found.find("pysocks")
    if reply.fault == "socks" and pysocks:
        return skipped("the way is through a SOCKS proxy, which is not tried")
    if reply.fault == "bundle" and config and config.cert not in {None, environ.get("PIP_CERT")}:
        remedy = change(facts, "cert")
    elif reply.fault == "bundle":
        return skipped("there are no certificates to believe: see `ca-file`")
    else:
        proxy = change(facts, "proxy") if config and config.proxy else ""
        remedy = mend(facts.subject, url, way, reply, proxy)
    return problem(
        f"the package index: {reply.words}",
        cause=why(url, way, reply),
        remedy=remedy,
        link="pypa/pip#9568",
    )


def _answered(facts: Facts, url: str, reply: Reply, config: PipConfig | None) -> Outcome:
    evidence = f"the package index answers {reply.status}"
    if reply.status == _TOO_MANY:
        wait = reply.headers.get("retry-after", "60")
        cause = "too many requests came from this address: wait, or use a mirror"
        return problem(evidence, cause=cause, remedy=f"sleep {wait if wait.isdigit() else 60}")
    if reply.status in _REFUSED:
        cause = "it wants a login that is not in its URL, or refuses this one"
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        known = parts._replace(netloc=f"USER:TOKEN@{host}").geturl()
        return problem(evidence, cause=cause, remedy=change(facts, "index-url", known))
    if reply.status >= _ILL:
        return warning(evidence, cause="it is ill itself: try again", remedy="sleep 60")
    elsewhere = config and (config.find_links or config.extra_index_urls)
    if reply.status == _MISSING and not elsewhere:
        cause = "it has no torch, or its URL is not that of an index (they end with /simple)"
        return warning(evidence, cause=cause, remedy=change(facts, "index-url"))
    return ok(evidence)


@check("pip-indexes", area="network", rank=84)
def pip_indexes(facts: Facts) -> Outcome:
    """Look for the PyTorch index beside another one: pip takes the newest of both."""
    try:
        config = _config(facts)
    except FetchError:
        return skipped("pip's configuration cannot be read")
    places = _places(config) if config and not config.no_index else {}
    servers = [one for urls in places.values() for one in urls if one.startswith("http")]
    mixed = [name for name, urls in places.items() if any(map(_is_pytorch, urls))]
    if not mixed or all(map(_is_pytorch, servers)):
        return ok("no PyTorch index is beside another one")
    others = [one for one in places[mixed[0]] if not _is_pytorch(one)]
    return warning(
        f"pip's {mixed[0]} names a PyTorch index, beside another index",
        cause="pip takes the highest version of all: another build of torch than that index has;"
        " name it with --index-url, for torch alone",
        remedy=change(facts, mixed[0], " ".join(others)),
        link="pypa/pip#8606",
    )


def _places(config: PipConfig) -> dict[str, tuple[str, ...]]:
    """Return where pip takes packages from, by the setting that says so."""
    return {
        "extra-index-url": config.extra_index_urls,
        "find-links": config.find_links,
        "index-url": (config.index_url,),
    }


def _is_pytorch(url: str) -> bool:
    return urlsplit(url).hostname == urlsplit(INDEX).hostname
