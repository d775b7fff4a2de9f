"""Which files an index or a find-links page offers for a project.

Indexes: the simple repository API in its JSON form (PEP 691, sizes by PEP 700), its HTML form
(PEP 503), and folders laid out like one. Find-links: a folder, or an HTML page anywhere.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs, unquote, urljoin, urlsplit

from packaging.utils import canonicalize_name

from torchkiln import urls
from torchkiln.digests import parse_sha256, parse_size
from torchkiln.errors import FetchError
from torchkiln.progress import say
from torchkiln.transport import StatusError, Transport
from torchkiln.urls import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torchkiln.pipconf import PipConfig

_ACCEPT: Final = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2,"
    " text/html;q=0.1"
)


@dataclass(frozen=True, kw_only=True)
class Link:
    """A file that a source offers; `url` is http(s) or file, `sha256` and `size` where told."""

    filename: str
    url: str
    sha256: str | None = None
    size: int | None = None
    yanked: bool = False


@dataclass(frozen=True, kw_only=True)
class Source:
    """An `index` (one page a project) or a find-links `page`, by URL or path."""

    kind: Literal["index", "page"]
    location: str


def sources(config: PipConfig) -> tuple[Source, ...]:
    """Return what pip is configured to look at, what is near first: find-links, then indexes."""
    pages = [Source(kind="page", location=location) for location in config.find_links]
    if config.no_index:
        return tuple(pages)
    indexes = (config.index_url, *config.extra_index_urls)
    return (*pages, *(Source(kind="index", location=location) for location in indexes))


class Finder:
    """Looks for projects in sources, in order; a source that fails once is not asked again."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._failed: dict[Source, FetchError] = {}
        self._pages: dict[Source, list[Link]] = {}
        self._lock = threading.Lock()

    def search(
        self, project: str, sources: Sequence[Source], failures: list[FetchError]
    ) -> Iterator[Link]:
        """Yield the wheels of `project`, a source at a time; add what fails to `failures`.

        A source is asked when what it may have is needed, so that an unreachable one matters
        (as in pip, with a warning) only where the ones before it lack the file.
        """
        for source in sources:
            yield from self._ask(source, project, failures)

    def _ask(self, source: Source, project: str, failures: list[FetchError]) -> list[Link]:
        if source in self._failed:
            failures.append(self._failed[source])
            return []
        try:
            links = self._pages.get(source) or _links(self._transport, source, project)
        except StatusError as error:
            # PEP 503: 404 is how an index says that it does not have this project.
            if source.kind == "page" or error.status != 404:  # noqa: PLR2004
                failures.append(error)
            return []
        except FetchError as error:
            failures.append(self._give_up(source, error))
            return []
        if source.kind == "page":
            self._pages[source] = links
        name = canonicalize_name(project)
        return [link for link in links if _project_of(link.filename) == name]

    def _give_up(self, source: Source, error: FetchError) -> FetchError:
        """Note that a source does not answer, and say so once."""
        with self._lock:
            if source not in self._failed:
                say(f"warning: {error.what}: {error.why}")
                self._failed[source] = error
        return error


def _links(transport: Transport, source: Source, project: str) -> list[Link]:
    """Return all links of the source's page for `project`."""
    url = _url(source.location)
    if source.kind == "index":
        url = f"{url.rstrip('/')}/{canonicalize_name(project)}/"
    if urls.is_file(url):
        path = urls.local_path(url)
        if source.kind == "page" and path.is_dir():
            return _files(path)
        if source.kind == "index":
            url = f"{url}index.html"
            if not (path / "index.html").exists():
                return []
    page = transport.read(url, _ACCEPT)
    try:
        if page.kind.endswith("json"):
            return parse_json(json.loads(page.data), page.url)
        return parse_html(page.data.decode("utf-8", "replace"), page.url)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"the page of a package index cannot be read: {redact(url)}"
        raise FetchError(what, repr(error)) from None


def _files(folder: Path) -> list[Link]:
    try:
        return [Link(filename=file.name, url=file.as_uri()) for file in sorted(folder.iterdir())]
    except OSError as error:
        what = f"cannot read {folder}"
        raise FetchError(what, error.strerror or str(error)) from None


def parse_json(page: Mapping[str, Any], base: str) -> list[Link]:
    """Return the files of a project page in JSON (PEP 691)."""
    return [
        Link(
            filename=file["filename"],
            url=urljoin(base, file["url"]),
            sha256=_sha256(file.get("hashes", {}).get("sha256")),
            size=None if file.get("size") is None else parse_size(file["size"]),
            yanked=bool(file.get("yanked")),
        )
        for file in page["files"]
    ]


def parse_html(page: str, base: str) -> list[Link]:
    """Return the anchors of a page in HTML (PEP 503), relative to `base` or to its own <base>."""
    parser = _Anchors(base)
    parser.feed(page)
    return parser.links


class _Anchors(HTMLParser):
    def __init__(self, base: str) -> None:
        super().__init__()
        self.links: list[Link] = []
        self._base = base

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        href = attributes.get("href")
        if not href:
            return
        if tag == "base":
            self._base = urljoin(self._base, href)
        elif tag == "a":
            url, _, fragment = urljoin(self._base, href).partition("#")
            self.links.append(
                Link(
                    filename=unquote(urlsplit(url).path.rpartition("/")[2]),
                    url=url,
                    sha256=_sha256(next(iter(parse_qs(fragment).get("sha256", [])), None)),
                    yanked="data-yanked" in attributes,
                )
            )


def _url(location: str) -> str:
    """Return a source's location as a URL; what has no scheme that we know is a path."""
    if urlsplit(location).scheme in {"http", "https", "file"}:
        return location
    return Path(location).expanduser().absolute().as_uri()


def _project_of(filename: str) -> str | None:
    """Return the normalised name of a wheel's project, None for what is no wheel."""
    return canonicalize_name(filename.partition("-")[0]) if filename.endswith(".whl") else None


def _sha256(value: object) -> str | None:
    """Return the hash that a page tells, None where it tells none; indexes may write capitals."""
    return None if value is None else parse_sha256(str(value).lower())
