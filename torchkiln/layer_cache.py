"""Layers that a registry keeps for other builders, so that a fleet makes each of them once.

They lie there as `torchkiln.registry.cached` says, under the key that hashes all that a layer is
made from. What comes has to fit the key in every way, as far as that can be told without the
packages (`torchkiln.cache_rules`); what does not is told, and built instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final, cast

from torchkiln import cache_rules, layer_records
from torchkiln.archive import open_gzip
from torchkiln.base import base_key
from torchkiln.engine.job import known_layer, layer_key, missing_layers
from torchkiln.engine.kiln import layer_keys
from torchkiln.errors import ArchiveError, KilnError, RegistryError
from torchkiln.image_reader import refusing
from torchkiln.layer import Layer
from torchkiln.layer_reader import read_layer
from torchkiln.progress import Progress, say
from torchkiln.registry import cached, manifests
from torchkiln.registry.pull import bring_blob
from torchkiln.registry.reference import parse
from torchkiln.registry.refusals import reporting
from torchkiln.registry.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torchkiln.engine.job import Job
    from torchkiln.listing import LayerListing
    from torchkiln.lockfile import LockedDeb, LockedWheel
    from torchkiln.registry.reference import Reference
    from torchkiln.store import Store

_THREADS: Final = 4
_SHOWN: Final = 5


@dataclass(frozen=True, kw_only=True)
class Caches:
    """Where to look for layers, in this order; `plain` allows http."""

    places: tuple[Reference, ...]
    plain: bool = False


@dataclass(frozen=True, kw_only=True)
class _Missing:
    """A layer that the store lacks; `inputs` are what it would be built from.

    `faults` says what is wrong with a layer that is to stand for it.
    """

    key: str
    name: str
    inputs: Sequence[LockedWheel | LockedDeb]
    faults: Callable[[LayerListing], list[str]]


def caches(places: Sequence[str], *, plain: bool) -> Caches | None:
    """Return what `--cache-from` names, None where it names nothing."""
    return Caches(places=tuple(map(parse, places)), plain=plain) if places else None


def offer(job: Job, target: Reference, environ: Mapping[str, str], *, plain: bool) -> None:
    """Offer the layers of the image of `job`, which the repository has, to builds elsewhere.

    A registry that takes images and not this costs a warning.
    """
    found = {key: known_layer(job.store, key) for key in layer_keys(job)}
    layers = {key: layer for key, layer in found.items() if layer}
    try:
        with (
            reporting(f"offer layers at {target.name}"),
            contextlib.closing(Session(target, environ, push=True, plain=plain)) as session,
        ):
            cached.put(job.store, session, layers)
    except RegistryError as error:
        _warn(error)


def take(job: Job, caches: Caches, environ: Mapping[str, str]) -> None:
    """Take into the store what it lacks of the layers of `job` and the caches have.

    A cache that cannot be used, and a layer that is not what its key says, cost a warning.
    """
    missing = _missing(job)
    with contextlib.ExitStack() as stack:
        sessions = list(_sessions(caches, environ, stack)) if missing else []
        if not sessions:
            return
        with Progress("cache", None) as progress, ThreadPoolExecutor(_THREADS) as pool:
            futures = [pool.submit(_take, job.store, one, sessions, progress) for one in missing]
            try:
                received = [future.result() for future in futures]
            except BaseException:
                for session in sessions:
                    session.cancel()
                pool.shutdown(cancel_futures=True)
                raise
    taken = [one for one, size in zip(missing, received, strict=True) if size is not None]
    spared = {
        one.sha256: one.size
        for layer in taken
        for one in layer.inputs
        if not job.store.has(one.sha256, one.size)
    }
    came = sum(size for size in received if size is not None)
    say(
        f"{len(taken)} of {len(missing)} layers are from a cache: {came / 1e6:,.1f} MB came,"
        f" {sum(spared.values()) / 1e6:,.1f} MB of packages need not be fetched"
    )


def _missing(job: Job) -> list[_Missing]:
    """Return the layers that the store lacks, the largest first."""
    found = [
        _Missing(
            key=layer_key(job, group),
            name=group.name,
            inputs=group.wheels,
            faults=partial(cache_rules.wheel_layer_faults, wheels=group.wheels, venv=job.venv),
        )
        for group in missing_layers(job)
    ]
    key = base_key(job.base_lock)
    if known_layer(job.store, key) is None:
        name = f"debian-{job.base_lock.release}"
        faults = partial(_base_faults, job)
        found.append(_Missing(key=key, name=name, inputs=job.base_lock.debs, faults=faults))
    return sorted(found, key=lambda one: -sum(file.size for file in one.inputs))


def _base_faults(job: Job, layer: LayerListing) -> list[str]:
    md5 = _md5(job.store, layer.digest)
    return cache_rules.base_layer_faults(layer, job.base_lock, md5)


def _md5(store: Store, sha256: str) -> dict[str, str]:
    """Return the md5 (hex) of each file of a layer, which is what dpkg knows of its files."""
    found = {}
    with (
        open_gzip(store.blob(sha256)) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        for info in archive:
            if info.isreg() and (content := archive.extractfile(info)):
                md5 = hashlib.md5(content.read(), usedforsecurity=False)
                found[info.name] = md5.hexdigest()
    return found


def _sessions(
    caches: Caches, environ: Mapping[str, str], stack: contextlib.ExitStack
) -> Iterator[Session]:
    """Give a session with each cache that answers."""
    for place in caches.places:
        try:
            with reporting(f"use the cache {place.name}"):
                session = Session(place, environ, plain=caches.plain)
        except KilnError as error:
            _warn(error)
            continue
        yield stack.enter_context(contextlib.closing(session))


def _take(
    store: Store, missing: _Missing, sessions: Sequence[Session], progress: Progress
) -> int | None:
    """Take a layer from the first cache that has it; return the bytes that came, None if not."""
    for session in sessions:
        try:
            with reporting(f"take `{missing.name}` from {session.reference.name}"):
                found = manifests.find(session, cached.tag(missing.key))
                if found:
                    return _adopt(store, session, missing, found.document, progress)
        except (RegistryError, ArchiveError) as error:  # noqa: PERF203 - a request takes far longer
            _warn(error)
    return None


def _adopt(
    store: Store,
    session: Session,
    missing: _Missing,
    manifest: Mapping[str, Any],
    progress: Progress,
) -> int:
    """Bring the layer that a manifest names, and keep it under its key if it is what that says."""
    notes, wanted = manifest.get("annotations") or {}, cached.wanted(manifest, missing.name)
    received = 0
    if not store.has(wanted.sha256, wanted.size):
        store.demand_space(wanted.size, "pulled")
        received = bring_blob(store, session, wanted, progress)
    place = f"{session.reference.name}:{cached.tag(missing.key)}"
    what = f"a cached layer is not `{missing.name}`: {place}"
    with refusing(what), store.blob(wanted.sha256).open("rb", buffering=0) as stream:
        listing = read_layer(cast("IO[bytes]", stream), lambda _: missing.name)
        layer = Layer(
            name=missing.name,
            diff_id=listing.diff_id,
            digest=listing.digest,
            size=listing.size,
            unpacked=listing.unpacked,
        )
        said = cached.notes(missing.key, layer)
        faults = [
            f"{name}: it says {notes.get(name)}, it is {value}"
            for name, value in said.items()
            if notes.get(name) != value
        ]
        faults = faults or missing.faults(listing)
    if listing.digest != wanted.sha256:
        faults.append("its bytes in the store are not those of its digest")
    if faults:
        raise ArchiveError(what, "\n".join(faults[:_SHOWN]))
    with store.exclusive(f"layer-{missing.key}"):
        layer_records.write(store, missing.key, layer)
    return received


def _warn(error: KilnError) -> None:
    lines = [f"warning: {error.what}", *(f"  {line}" for line in error.why.splitlines())]
    say("\n".join(lines))
