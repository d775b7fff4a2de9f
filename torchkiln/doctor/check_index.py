"""The way to the package index: certificates, proxy, name, login, limits."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from torchkiln import pipconf
from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.installer import INDEX
from torchkiln.doctor.network import CA_VARIABLES, PROXY_VARIABLES, bundles, is_alone, send, way_to
from torchkiln.errors import FetchError

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts
    from torchkiln.doctor.network import Reply, Way
    from torchkiln.pipconf import PipConfig

_TOO_MANY: Final = 429
_REFUSED: Final = (401, 403)
_ILL: Final = 500
_CAUSES: Final = {
    "name": "the name of the package index is not resolved: there is no DNS, or a proxy is needed",
    "connection": "the package index is not reached: there is no route, or a proxy is needed",
    "proxy": "every download goes to a proxy that does not answer",
    "login": "the proxy wants a user and a password",
    "certificate": "the index, or a proxy before it, shows a certificate of a CA that is not known",
    "clock": "the clock of this machine is wrong, so that certificates seem too old or too new",
}
_MENDS: Final = {
    "name": "export HTTPS_PROXY=http://PROXY:PORT",
    "connection": "export HTTPS_PROXY=http://PROXY:PORT",
    "login": "export HTTPS_PROXY=http://USER:PASSWORD@PROXY:PORT",
    "clock": "sudo timedatectl set-ntp true",
}


@check("ca-file", area="network", rank=80)
def ca_file(facts: Facts) -> Outcome:
    """Look whether the files of certificates are there that variables name."""
    environ = facts.subject.environ
    named = {name: environ[name] for name in CA_VARIABLES if environ.get(name)}
    gone = [name for name, path in named.items() if not Path(path).is_file()]
    if not gone:
        return ok(f"{', '.join(named) or 'no variable'} names a file of certificates")
    return problem(
        f"{gone[0]} names {named[gone[0]]}, which is not there",
        cause="without the certificates of CAs no HTTPS connection can be made",
        remedy=f"unset {' '.join(gone)}",
        link="psf/requests#3829",
    )


@check("package-index", area="network", rank=82)
def package_index(facts: Facts) -> Outcome:
    """Ask the package index that pip is configured with for torch."""
    environ = facts.subject.environ
    try:
        config = _config(facts)
    except FetchError as error:
        cause = "pip reads its configuration before it does anything"
        return problem(error.why or error.what, cause=cause, remedy=_pip(facts, "config debug"))
    url = config.index_url if config else environ.get("UV_DEFAULT_INDEX", "")
    if not url.startswith(("http:", "https:")) or (config and config.no_index):
        return skipped("no pip, or no setting, says where a package index is")
    where = f"{url.rstrip('/')}/torch/"
    way = way_to(url, environ, config)
    reply = send(where, way)
    if reply.fault in {"name", "connection"} and not way.proxy and is_alone():
        return skipped("this machine, or container, has no network")
    if reply.fault:
        return _unreached(facts, where, way, reply)
    return _answered(facts, reply)


def _config(facts: Facts) -> PipConfig | None:
    found = facts.environment
    if found is None or not found.find("pip"):
        return None
    return pipconf.read(facts.subject.environ, str(found.python))


def _unreached(facts: Facts, url: str, way: Way, reply: Reply) -> Outcome:
    """Say why no answer came, and try what may mend it."""
    remedy = _MENDS.get(reply.fault, "")
    if reply.fault in {"proxy", "login"} and not send(url, replace(way, proxy="")).fault:
        remedy = _without_proxy(facts)
    if reply.fault == "proxy" and not remedy:
        remedy = "export HTTPS_PROXY=http://PROXY:PORT"
    if reply.fault == "certificate":
        remedy = _with_certificates(facts, url, way)
    return problem(
        f"{reply.fault}: {reply.words}",
        cause=_CAUSES[reply.fault],
        remedy=remedy,
        link="pypa/pip#6720",
    )


def _without_proxy(facts: Facts) -> str:
    names = [name for name in (*PROXY_VARIABLES, "PIP_PROXY") if name in facts.subject.environ]
    return f"unset {' '.join(names)}" if names else _pip(facts, "config unset global.proxy")


def _with_certificates(facts: Facts, url: str, way: Way) -> str:
    """Return what makes pip believe a file of certificates that this connection can do with."""
    for path in bundles(facts.subject.root, facts.subject.environ):
        if path != way.certificates and not send(url, replace(way, certificates=path)).fault:
            names = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
            return "export " + " ".join(f"{name}={shlex.quote(path)}" for name in names)
    return "export PIP_CERT=CA.pem REQUESTS_CA_BUNDLE=CA.pem SSL_CERT_FILE=CA.pem"


def _answered(facts: Facts, reply: Reply) -> Outcome:
    evidence = f"the package index answers {reply.status}"
    if reply.status == _TOO_MANY:
        wait = reply.headers.get("retry-after", "60")
        cause = "too many requests came from this address: wait, or use a mirror"
        return problem(evidence, cause=cause, remedy=f"sleep {wait if wait.isdigit() else 60}")
    if reply.status in _REFUSED:
        cause = "it wants a login that is not in its URL, or refuses this one"
        setting = "config set global.index-url https://USER:TOKEN@HOST/simple"
        return problem(evidence, cause=cause, remedy=_pip(facts, setting))
    if reply.status >= _ILL:
        return warning(evidence, cause="it is ill itself: try again", remedy="sleep 60")
    return ok(evidence)


@check("pip-indexes", area="network", rank=84)
def pip_indexes(facts: Facts) -> Outcome:
    """Look for the PyTorch index beside another one: pip takes the newest of both."""
    try:
        config = _config(facts)
    except FetchError:
        return skipped("pip's configuration cannot be read")
    host = urlsplit(INDEX).netloc
    if config is None or not any(host in one for one in config.extra_index_urls):
        return ok("no PyTorch index is beside another one")
    named = "PIP_EXTRA_INDEX_URL" in facts.subject.environ
    unset = "unset PIP_EXTRA_INDEX_URL"
    return warning(
        "an extra index of pip's is a PyTorch index",
        cause="pip takes the highest version of all indexes: another build of torch than the extra"
        " index has; name it with --index-url, for torch alone",
        remedy=unset if named else _pip(facts, "config unset global.extra-index-url"),
        link="pytorch/pytorch#74504",
    )


def _pip(facts: Facts, words: str) -> str:
    python = facts.environment.python if facts.environment else "python3"
    return f"{shlex.quote(str(python))} -m pip {words}"
