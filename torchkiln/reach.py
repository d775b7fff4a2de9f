"""Find out which package sources answer, before uv is asked to use them.

pip warns of an index or a find-links page that cannot be reached and goes on; uv gives up.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from torchkiln.index import Finder, Source
from torchkiln.progress import say
from torchkiln.transport import StatusError, Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.errors import FetchError
    from torchkiln.pipconf import PipConfig

_PATIENCE: Final = 5.0
"""Seconds to wait for a source that the user's pip could do without."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The sources that answer: the user's indexes, the variant's own index, find-links pages."""

    indexes: tuple[Source, ...]
    named: Source | None
    pages: tuple[Source, ...]


def reach(config: PipConfig, index: str | None, environ: Mapping[str, str]) -> Reach:
    """Return the sources of `config` and the variant's `index` (a URL) without the silent ones.

    Each silent one is warned of. pip's main index is not tried here: nothing goes without it.
    """
    hasty = replace(config, timeout=min(config.timeout, _PATIENCE), retries=0)

    indexes = [] if config.no_index else [_index(config.index_url)]
    extra = [] if config.no_index else [_index(url) for url in config.extra_index_urls]
    named = [_index(index)] if index else []
    pages = [Source(kind="page", location=location) for location in config.find_links]
    with closing(Transport(hasty, environ)) as transport, ThreadPoolExecutor() as pool:
        failing_of = partial(_failing, Finder(transport))
        failing = set(filter(None, pool.map(failing_of, [*extra, *named, *pages])))
    return Reach(
        indexes=(*indexes, *(source for source in extra if source not in failing)),
        named=next((source for source in named if source not in failing), None),
        pages=tuple(source for source in pages if source not in failing),
    )


def _failing(finder: Finder, source: Source) -> Source | None:
    """Return `source` if it does not answer."""
    failures: list[FetchError] = []
    list(finder.search("torch", [source], failures))
    for failure in failures:
        if isinstance(failure, StatusError):  # the finder warns of all others
            say(f"warning: {failure.what}: {failure.why}")
    return source if failures else None


def _index(url: str) -> Source:
    return Source(kind="index", location=url)
