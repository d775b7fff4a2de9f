"""Bring every locked file that the store lacks into the store: in parallel, each one checked.

After this stage nothing uses the network. Where all files are there, this one does not either.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import quote

from torchkiln import mirror, pipconf, snapshot
from torchkiln.download import MismatchError, download, exclusive
from torchkiln.errors import FetchError
from torchkiln.fetch_errors import FileError, Wanted, failure, summary
from torchkiln.index import Finder, Source, sources
from torchkiln.progress import Progress
from torchkiln.transport import StatusError, Transport
from torchkiln.urls import is_file, origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torchkiln.lockfile import LockedDeb, LockedWheel
    from torchkiln.store import Store

_THREADS: Final = 8


@dataclass(frozen=True, kw_only=True)
class FetchReport:
    """What a fetch did; `bytes_fetched` counts what came from elsewhere in this run."""

    bytes_fetched: int
    files: int
    seconds: float


def fetch(
    store: Store,
    wheels: Sequence[LockedWheel],
    debs: Sequence[LockedDeb],
    indexes: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    date: str = "",
) -> FetchReport:
    """Put all `wheels` and `debs` into `store`; `indexes` are the catalog's, name to URL.

    `date` (RFC 3339) is that of the lock of `debs`: a dated archive has them as they were then.
    One `FetchError` names all files that cannot be fetched, a `DebsError` where only .debs are
    missing. A full disk is a `StoreError`.
    """
    started = time.monotonic()
    missing = _missing(store, [*map(_of_wheel, wheels), *map(_of_deb, debs)])
    if not missing:
        return FetchReport(bytes_fetched=0, files=0, seconds=time.monotonic() - started)
    _check_space(store, missing)
    config = pipconf.read(environ)
    debs_missing = any(wanted.kind == "deb" for wanted in missing)
    mirrors = mirror.mirrors(environ) if debs_missing else {}
    transport = Transport(config, environ)
    with (
        contextlib.closing(transport),
        Progress("fetch", sum(wanted.size for wanted in missing)) as progress,
    ):
        fetcher = _Fetcher(
            store=store,
            transport=transport,
            finder=Finder(transport),
            config=config,
            indexes=indexes,
            mirrors=mirrors,
            snapshots=snapshot.snapshots(environ, date) if debs_missing and date else {},
            progress=progress,
        )
        received = fetcher.run(missing)
    seconds = time.monotonic() - started
    return FetchReport(bytes_fetched=received, files=len(missing), seconds=seconds)


def _of_wheel(wheel: LockedWheel) -> Wanted:
    return Wanted(
        kind="wheel",
        name=wheel.name,
        version=wheel.version,
        file=wheel.file,
        size=wheel.size,
        sha256=wheel.sha256,
        place=wheel.source,
    )


def _of_deb(deb: LockedDeb) -> Wanted:
    return Wanted(
        kind="deb",
        name=deb.name,
        version=deb.version,
        file=deb.filename,
        size=deb.size,
        sha256=deb.sha256,
        place=deb.archive,
    )


def _missing(store: Store, wanted: Sequence[Wanted]) -> list[Wanted]:
    """Return what the store lacks, each file once, the largest first."""
    by_hash = {entry.sha256: entry for entry in wanted}
    lacking = [w for w in by_hash.values() if not store.has(w.sha256, w.size)]
    return sorted(lacking, key=lambda w: (-w.size, w.file))


def _check_space(store: Store, missing: Sequence[Wanted]) -> None:
    partials = [store.partial(wanted.sha256) for wanted in missing]
    present = sum(path.stat().st_size for path in partials if path.exists())
    store.demand_space(sum(wanted.size for wanted in missing) - present, "fetched")


@dataclass(frozen=True, kw_only=True)
class _Fetcher:
    """One fetch under way: what its threads share."""

    store: Store
    transport: Transport
    finder: Finder
    config: pipconf.PipConfig
    indexes: Mapping[str, str]
    mirrors: Mapping[str, str]
    snapshots: Mapping[str, Sequence[str]]
    progress: Progress
    silent: set[tuple[str, str]] = field(default_factory=set)
    """Dated archives, by origin, that did not answer: not to be asked again for each package."""

    def run(self, missing: Sequence[Wanted]) -> int:
        """Fetch all and return the bytes that came; a broken store or Ctrl-C ends it at once."""
        with ThreadPoolExecutor(_THREADS) as pool:
            futures = [pool.submit(self._bring, wanted) for wanted in missing]
            try:
                results = [future.result() for future in as_completed(futures)]
            except BaseException:
                self.transport.cancel()
                pool.shutdown(cancel_futures=True)
                raise
        failures = [result for result in results if isinstance(result, FileError)]
        if failures:
            raise summary(failures, len(missing))
        return sum(result for result in results if isinstance(result, int))

    def _bring(self, wanted: Wanted) -> int | FileError:
        """Put one file into the store; return the bytes that came, or why it cannot be had."""
        path = self.store.partial(wanted.sha256)
        self.store.make(path.parent)
        try:
            with self.store.reporting(), exclusive(path) as stream:
                if self.store.has(wanted.sha256, wanted.size):  # by the process we waited for
                    path.unlink()
                    return 0
                received = self._download(wanted, stream)
                self.store.adopt(path, wanted.sha256)
        except FileError as error:
            return error
        return received

    def _download(self, wanted: Wanted, stream: BinaryIO) -> int:
        """Complete the partial file from the first place that can; return the bytes that came."""
        failures: list[FetchError] = []
        for url in self._urls(wanted, failures):
            outcome = self._try(wanted, url, stream)
            if isinstance(outcome, int):
                return outcome
            failures.append(outcome)
            if not isinstance(outcome, (StatusError, MismatchError)):
                self.silent.add(origin(url))
        raise failure(wanted, failures)

    def _try(self, wanted: Wanted, url: str, stream: BinaryIO) -> int | FetchError:
        try:
            return download(
                self.transport,
                url,
                size=wanted.size,
                sha256=wanted.sha256,
                stream=stream,
                report=self.progress.advance,
            )
        except FetchError as error:
            return error

    def _urls(self, wanted: Wanted, failures: list[FetchError]) -> Iterator[str]:
        """Yield where the file may be, each URL once."""
        if wanted.kind == "deb":
            path = quote(wanted.file, safe="/+~:")
            yield f"{self.mirrors[wanted.place]}/{path}"
            for place in self.snapshots.get(wanted.place, ()):
                if is_file(place) or origin(place) not in self.silent:
                    yield f"{place}/{path}"
            return
        asked = sources(self.config)
        if wanted.place in self.indexes and not self.config.no_index:
            asked = (*asked, Source(kind="index", location=self.indexes[wanted.place]))
        seen: set[str] = set()
        for link in self.finder.search(wanted.name, asked, failures):
            fits = link.sha256 == wanted.sha256 if link.sha256 else link.filename == wanted.file
            if fits and link.url not in seen:
                seen.add(link.url)
                yield link.url
