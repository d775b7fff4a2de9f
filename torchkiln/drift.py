"""A base that has drifted from its lock: the release's present packages where locked ones are gone.

Debian's mirrors drop a package as soon as an update replaces it. So a build that finds neither the
locked base nor its packages anywhere resolves the catalog's packages anew, from the signed index.
What it took instead is kept in the store, so that every later command there has the same base. The
lock of that base says what differs (`BaseLock.drifted`), and so do the image's label, its tags and
its provenance.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Final

from torchkiln.base import base_key
from torchkiln.engine.job import known_layer
from torchkiln.errors import LockError
from torchkiln.lock import resolve_base
from torchkiln.lockfile import Drifted, digest, dump, read_base_lock_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.catalog import Base
    from torchkiln.lockfile import BaseLock
    from torchkiln.store import Store

RECORDS: Final = "drifted"
"""The kind of the store's records, by the hash of the lock that could not be followed."""


def resolve(store: Store, base: Base, locked: BaseLock, environ: Mapping[str, str]) -> BaseLock:
    """Return the present packages of `base` as a drifted lock, which the store keeps.

    Where the mirror merely moved the locked packages, that is the lock itself with their new paths.
    An index older than the lock raises `LockError`: a mirror that is behind, or that would have us
    go back to packages with known holes.
    """
    found = resolve_base(base, environ)
    if found.date < locked.date:
        what = f"the mirror's index of Debian {base.release} is older than the lock"
        why = f"lock: {locked.date}\nindex: {found.date}"
        raise LockError(what, why, "name another mirror: export TORCHKILN_DEBIAN_MIRROR=<URL>")
    drifted = differences(locked, found)
    if not drifted:
        return replace(locked, debs=found.debs)
    present = replace(found, drifted=drifted)
    store.write_record(RECORDS, _key(locked), json.loads(dump(present)))
    return present


def recorded(store: Store, base: Base, locked: BaseLock) -> BaseLock | None:
    """Return what was resolved in the place of `locked` before, if the store has it still."""
    try:
        present = read_base_lock_at(store.root, store.record(RECORDS, _key(locked)), base)
    except LockError:
        return None
    if not present.drifted or present.drifted != differences(locked, present):
        return None
    debs = (store.has(deb.sha256, deb.size) for deb in present.debs)
    return present if is_built(store, present) or all(debs) else None


def is_built(store: Store, lock: BaseLock) -> bool:
    """Tell whether the store has the base's layer."""
    return known_layer(store, base_key(lock)) is not None


def differences(locked: BaseLock, present: BaseLock) -> tuple[Drifted, ...]:
    """Return the packages that are not the same bytes, by name."""
    before = {deb.name: (deb.sha256, deb.version) for deb in locked.debs}
    after = {deb.name: (deb.sha256, deb.version) for deb in present.debs}
    absent = ("", "")
    pairs = {name: (before.get(name, absent), after.get(name, absent)) for name in before | after}
    return tuple(
        Drifted(name=name, locked=old[1], present=new[1])
        for name, (old, new) in sorted(pairs.items())
        if old[0] != new[0]
    )


def refuse(lock: BaseLock) -> None:
    """Raise `LockError` where the base has drifted: what goes on from here must be the lock's."""
    if lock.drifted:
        what = f"the base has drifted from its lock: Debian {lock.release}"
        raise LockError(what, "\n".join(map(str, lock.drifted)), "./kiln lock --base")


def _key(locked: BaseLock) -> str:
    return digest(asdict(locked))
