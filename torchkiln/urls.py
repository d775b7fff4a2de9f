"""Take URLs apart: credentials, origin, and the path of a file: URL."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import url2pathname


def redact(text: str) -> str:
    """Return `text` with the user and password of each URL in it replaced by `****`."""
    return re.sub(r"://[^/\s]+@", "://****@", text)


def userinfo(url: str) -> str | None:
    """Return `user:password` of a URL, decoded; None if it has none."""
    found, at, _ = urlsplit(url).netloc.rpartition("@")
    return unquote(found) if at else None


def plain(url: str) -> str:
    """Return a URL without credentials and fragment, as it goes to a server."""
    return urlunsplit(urlsplit(url)._replace(netloc=_host(url), fragment=""))


def origin(url: str) -> tuple[str, str]:
    """Return the scheme and host[:port] that credentials belong to."""
    return urlsplit(url).scheme, _host(url).lower()


def is_file(url: str) -> bool:
    """Tell whether this is a file: URL."""
    return urlsplit(url).scheme == "file"


def local_path(url: str) -> Path:
    """Return the path of a file: URL."""
    return Path(url2pathname(urlsplit(url).path))


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
