"""Where Debian packages come from: a setting, or else the machine's own apt configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from debian.deb822 import Deb822

from torchkiln.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAIN: Final = "debian"
SECURITY: Final = "debian-security"

_ALIASES: Final = frozenset({"stable", "oldstable", "oldoldstable", "testing", "unstable"})
_CODENAMES: Final = frozenset({"buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"})
"""What tells Debian from the rest that apt may be configured for. A mirror's pool serves all
releases, so that any suite tells a mirror."""

_SCHEMES: Final = frozenset({"http", "https", "file"})
_HINT: Final = (
    "export TORCHKILN_DEBIAN_MIRROR=http://<host>/debian"
    " (mirrors: https://www.debian.org/mirror/list)"
)


def mirrors(environ: Mapping[str, str], apt_etc: Path = Path("/etc/apt")) -> dict[str, str]:
    """Return the base URL of `debian` and of `debian-security`, without a slash at the end.

    `TORCHKILN_DEBIAN_MIRROR` comes first, with `TORCHKILN_DEBIAN_SECURITY_MIRROR` where security
    updates do not lie beside it, then apt's sources.list and sources.list.d (sources.list(5)).
    No mirror, or a setting that is no URL, raises `FetchError`.
    """
    found = {
        MAIN: setting(environ, "TORCHKILN_DEBIAN_MIRROR"),
        SECURITY: setting(environ, "TORCHKILN_DEBIAN_SECURITY_MIRROR"),
    }
    if not found[MAIN]:
        configured = _from_apt(apt_etc)
        found = {archive: found[archive] or configured.get(archive) for archive in found}
    main = found[MAIN]
    if not main:
        what = "no Debian mirror is known"
        why = f"neither TORCHKILN_DEBIAN_MIRROR nor a Debian entry in `{apt_etc}` names one"
        raise FetchError(what, why, _HINT)
    return {MAIN: main, SECURITY: found[SECURITY] or sibling(main)}


def setting(environ: Mapping[str, str], name: str) -> str | None:
    """Return the URL that an environment variable names, without a slash at the end, or None."""
    value = environ.get(name, "").rstrip("/")
    if not value:
        return None
    if urlsplit(value).scheme not in _SCHEMES:
        what = f"{name} is no http, https or file URL: {value}"
        raise FetchError(what, hint=_HINT)
    return value


def sibling(main: str) -> str:
    """Return where mirrors that carry security updates keep them: beside the main archive."""
    parts = urlsplit(main)
    return urlunsplit(parts._replace(path=f"{parts.path.rpartition('/')[0]}/{SECURITY}"))


def _from_apt(apt_etc: Path) -> dict[str, str]:
    """Return the first mirror of each archive that apt is configured with."""
    found: dict[str, str] = {}
    for uri, suite, components in _entries(apt_etc):
        archive = _archive(suite)
        if archive and "main" in components and urlsplit(uri).scheme in _SCHEMES:
            found.setdefault(archive, uri.rstrip("/"))
    return found


def _archive(suite: str) -> str | None:
    """Return the archive of a Debian suite: `bookworm`, `bookworm-updates`, `bookworm-security`."""
    name, _, pocket = suite.replace("/", "-").partition("-")
    if name not in _ALIASES | _CODENAMES:
        return None
    # Up to buster the security suites were called `buster/updates`.
    security = pocket == "security" or suite.endswith("/updates")
    if security:
        return SECURITY
    return MAIN if pocket in {"", "updates", "backports"} else None


def _entries(apt_etc: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (URI, suite, components) of all binary entries, in apt's order of files."""
    folder = apt_etc / "sources.list.d"
    for path in [apt_etc / "sources.list", *sorted(folder.glob("*"))]:
        if path.suffix not in {".list", ".sources"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from _one_line(text) if path.suffix == ".list" else _deb822(text)


def _one_line(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the entries of the one-line format: deb [option=value ...] uri suite component ..."""
    for line in text.splitlines():
        words = re.sub(r"\[[^\]]*\]", "", line.partition("#")[0]).split()
        if len(words) > 2 and words[0] == "deb":  # noqa: PLR2004
            yield words[1], words[2], words[3:]


def _deb822(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the entries of the deb822 format; a stanza can name several URIs and suites."""
    for stanza in Deb822.iter_paragraphs(text, use_apt_pkg=False):
        enabled = stanza.get("Enabled", "yes").lower() not in {"no", "false", "off", "0"}
        if enabled and "deb" in stanza.get("Types", "").split():
            for uri in stanza.get("URIs", "").split():
                for suite in stanza.get("Suites", "").split():
                    yield uri, suite, stanza.get("Components", "").split()
