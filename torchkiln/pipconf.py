"""What the user's pip is configured with: indexes, find-links, proxy, certificates, patience.

pip itself is asked, through its command line, so that PIP_*, every pip.conf and every change of
their rules count here as they count for pip. The URL of the default index comes from pip too.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchkiln.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECTIONS: Final = ("global", "download", "install", ":env:")
"""Where settings come from, later ones win: pip's own order, both of its fetching commands."""

_TRUE: Final = frozenset({"1", "y", "yes", "t", "true", "on"})

_FETCHING: Final = (
    "cache-dir",
    "cert",
    "client-cert",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "keyring-provider",
    "no-cache-dir",
    "no-index",
    "proxy",
    "pypi-url",
    "resume-retries",
    "retries",
    "timeout",
    "trusted-host",
    "use-deprecated",
    "use-feature",
)
"""pip's settings that say where files come from, and how."""


@dataclass(frozen=True, kw_only=True)
class PipConfig:
    """pip's settings that concern fetching; `timeout` is in seconds, a socket operation each."""

    index_url: str
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    trusted_hosts: tuple[str, ...] = ()
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    timeout: float = 15.0
    retries: int = 5


def read(environ: Mapping[str, str], python: str = sys.executable) -> PipConfig:
    """Return what the pip of `python` is configured with; a broken pip.conf raises `FetchError`.

    Runs pip once, twice where no index is configured: about 0.2 seconds each.
    """
    settings = _settings(_pip(environ, python, "config", "list"))
    try:
        return PipConfig(
            index_url=_index_url(settings) or _default_index(environ, python),
            extra_index_urls=tuple(settings.get("extra-index-url", "").split()),
            find_links=tuple(settings.get("find-links", "").split()),
            no_index=settings.get("no-index", "").lower() in _TRUE,
            trusted_hosts=tuple(settings.get("trusted-host", "").split()),
            cert=settings.get("cert"),
            client_cert=settings.get("client-cert"),
            proxy=settings.get("proxy"),
            timeout=float(settings.get("timeout") or settings.get("default-timeout") or 15),
            retries=int(settings.get("retries", "5")),
        )
    except ValueError as error:
        what = "pip's configuration has a bad number for `timeout` or `retries`"
        raise FetchError(what, str(error), "pip config debug") from None


def only_fetching(environ: Mapping[str, str], python: str = sys.executable) -> dict[str, str]:
    """Return `environ` for a pip that takes over how files are fetched, and no other setting.

    The others, of PIP_* and of every pip.conf, say what is installed and where to: `target`,
    `prefix`, `root`, `dry-run`, `python`, `requirement`, `constraint` and more with each pip.
    """
    settings = _settings(_pip(environ, python, "config", "list"))
    plain = {name: value for name, value in environ.items() if not name.startswith("PIP_")}
    kept = {
        f"PIP_{name.upper().replace('-', '_')}": settings[name]
        for name in _FETCHING
        if name in settings
    }
    return {**plain, "PIP_CONFIG_FILE": os.devnull, **kept}


def _settings(listing: str) -> dict[str, str]:
    """Return the settings that hold, from the lines of `pip config list`: section.name='value'."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        # As pip does, take an empty value for none: it does not hide a wider one.
        if section in found and (text := str(ast.literal_eval(value)).strip()):
            found[section][name] = text
    return {name: text for section in _SECTIONS for name, text in found[section].items()}


def _index_url(settings: Mapping[str, str]) -> str | None:
    return settings.get("index-url") or settings.get("pypi-url")


def _default_index(environ: Mapping[str, str], python: str) -> str:
    """Return the index that pip uses where none is configured, as its help text names it."""
    plain = {name: value for name, value in environ.items() if not name.startswith("PIP_")}
    # The help shows configured values as defaults; with os.devnull pip reads no file at all.
    plain |= {"PIP_CONFIG_FILE": os.devnull, "COLUMNS": "1000", "LC_ALL": "C"}
    text = _pip(plain, python, "download", "--help")
    match = re.search(r"--index-url <url>.*?\(default (\S+)\)", text, re.DOTALL)
    if match is None:
        what = "pip does not say which package index is its default"
        raise FetchError(what, hint="export PIP_INDEX_URL=<the URL of your package index>")
    return match[1]


def _pip(environ: Mapping[str, str], python: str, *arguments: str) -> str:
    """Return what the pip of `python` prints."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "--no-color", *arguments]
    # With these, pip says nothing, or lets another Python answer.
    spoken = {**environ, "PIP_QUIET": "0", "PIP_PYTHON": ""}
    done = subprocess.run(command, env=spoken, capture_output=True, text=True, check=False)
    if done.returncode:
        what = f"pip cannot tell its configuration: `pip {' '.join(arguments)}` failed"
        # A bad pip.conf is told on stderr, a bad value on stdout.
        raise FetchError(what, (done.stderr or done.stdout).strip(), "python -m pip config debug")
    return done.stdout
