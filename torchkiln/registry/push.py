"""Push an image from the store: only the blobs that the registry lacks, then the manifest."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from torchkiln.descriptors import descriptors
from torchkiln.errors import RegistryError, StoreError
from torchkiln.lockfile import digest
from torchkiln.progress import Progress
from torchkiln.registry import manifests
from torchkiln.registry.blobs import Blob
from torchkiln.registry.reference import is_content_tag
from torchkiln.registry.refusals import reporting
from torchkiln.registry.session import Session
from torchkiln.registry.upload import Outcome, bring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torchkiln.image import Image
    from torchkiln.registry.reference import Reference
    from torchkiln.store import Store

_THREADS: Final = 4
_RECORDS: Final = "pushed"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did: `sent` are bytes of blobs, `outcomes` count blobs by how they got there."""

    reference: Reference
    tags: tuple[str, ...]
    sent: int
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float


def push(
    store: Store,
    image: Image,
    target: Reference,
    tags: Sequence[str],
    environ: Mapping[str, str],
    *,
    beside: Callable[[Session], object] = lambda _: None,
    plain: bool = False,
) -> Pushed:
    """Push `image` to the repository of `target` and give it `tags`.

    A content tag that names another image there is left alone: `RegistryError`, before anything is
    sent. Blobs that this store has pushed elsewhere in the registry are mounted. `beside` puts what
    belongs to the image there before it has its tags, so that who pulls by them finds it.
    """
    started = time.monotonic()
    manifest = store.blob(image.digest).read_bytes()
    blobs = _blobs(store, json.loads(manifest))
    known = _Known(store, target)
    mounts = known.repositories([blob.sha256 for blob in blobs])
    with (
        reporting(f"push to {target.name}"),
        contextlib.closing(Session(target, environ, push=True, mounts=mounts, plain=plain)) as to,
    ):
        for tag in tags:
            _check_tag(to, tag, f"sha256:{image.digest}")
        sent, outcomes = _bring_all(store, to, blobs, known)
        manifests.put(to, manifest, manifests.OCI_MANIFEST)
        beside(to)
        for tag in tags:
            manifests.put(to, manifest, manifests.OCI_MANIFEST, tag)
    known.add([blob.sha256 for blob in blobs])
    return Pushed(
        reference=target.at(f"sha256:{image.digest}"),
        tags=tuple(tags),
        sent=sent,
        outcomes=outcomes,
        seconds=time.monotonic() - started,
    )


def _blobs(store: Store, manifest: Mapping[str, Any]) -> list[Blob]:
    """Return the config and the layers, the largest first: the last ones then end together."""
    found = {}
    for one in descriptors([manifest["config"], *manifest["layers"]]):
        label = one.name("the configuration")
        path = store.blob(one.sha256)
        found[one.sha256] = Blob(path=path, sha256=one.sha256, size=one.size, label=label)
        if not store.has(one.sha256, one.size):
            what = f"the store lacks a part of the image: {label}"
            raise StoreError(what, one.digest, "build or pull it again")
    return sorted(found.values(), key=lambda blob: -blob.size)


def _check_tag(session: Session, tag: str, digest: str) -> None:
    """Refuse to move a tag that promises never to move."""
    if not is_content_tag(tag):
        return
    there = manifests.digest_of(session, tag)
    if there and there != digest:
        what = f"`{session.reference.name}:{tag}` names another image and is never moved"
        raise RegistryError(what, f"it is {there}, this is {digest}", "push under another tag")


def _bring_all(
    store: Store, session: Session, blobs: Sequence[Blob], known: _Known
) -> tuple[int, Counter[str]]:
    """See that the registry has all `blobs`; return the bytes sent and how each got there."""
    outcomes: Counter[str] = Counter()
    sent = 0
    with (
        Progress("push", sum(blob.size for blob in blobs)) as progress,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        futures = {
            pool.submit(_bring, store, session, blob, known, progress): blob for blob in blobs
        }
        try:
            for future in as_completed(futures):
                outcome = future.result()
                outcomes[outcome.value] += 1
                sent += futures[future].size if outcome is Outcome.SENT else 0
        except BaseException:
            session.cancel()
            pool.shutdown(cancel_futures=True)
            raise
    return sent, outcomes


def _bring(
    store: Store, session: Session, blob: Blob, known: _Known, progress: Progress
) -> Outcome:
    try:
        outcome = bring(session, blob, known.sources(blob.sha256), progress.advance)
    except RegistryError:
        # If the registry found other bytes than their digest, it is our disk that changed them.
        store.checked(blob.sha256, blob.label)
        raise
    if outcome is not Outcome.SENT:
        progress.advance(blob.size)
    return outcome


class _Known:
    """Which repositories of a registry have which blobs, as far as this store has pushed them.

    Only ever a hint: a registry that has lost a blob answers a mount with an upload.
    """

    def __init__(self, store: Store, target: Reference) -> None:
        self._store = store
        self._target = target
        self._key = digest([target.registry])
        self._places: dict[str, list[str]] = store.read_record(_RECORDS, self._key) or {}

    def sources(self, sha256: str) -> list[str]:
        """Return the repositories other than the target that had the blob."""
        return [one for one in self._places.get(sha256, ()) if one != self._target.repository]

    def repositories(self, blobs: Sequence[str]) -> list[str]:
        """Return all sources of `blobs`."""
        return sorted({source for sha256 in blobs for source in self.sources(sha256)})

    def add(self, blobs: Sequence[str]) -> None:
        """Note that the target has `blobs` now, at the front: the newest is the surest."""
        own = self._target.repository
        with self._store.exclusive(f"pushed-{self._key}"):
            places = self._store.read_record(_RECORDS, self._key) or {}
            for sha256 in blobs:
                places[sha256] = [own, *(one for one in places.get(sha256, ()) if one != own)][:3]
            self._store.write_record(_RECORDS, self._key, places)
