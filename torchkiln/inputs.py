"""What a build fetches: its wheels, and the base's packages, or what is there in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from torchkiln import drift
from torchkiln.fetch import fetch
from torchkiln.fetch_errors import DebsError
from torchkiln.lockfile import read_base_lock
from torchkiln.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torchkiln.fetch import FetchReport
    from torchkiln.lockfile import BaseLock, LockedDeb, LockedWheel
    from torchkiln.pipeline import Project

_T = TypeVar("_T")


def base_lock(project: Project) -> BaseLock:
    """Return the lock of the base that is built, the drifted one where that is; else the project's.

    A missing, stale or edited lock raises `LockError`.
    """
    base, store = project.catalog.base, project.store
    locked = read_base_lock(project.root, base)
    if drift.is_built(store, locked):
        return locked
    present = drift.recorded(store, base, locked)
    return present if present and drift.is_built(store, present) else locked


def with_base(project: Project, bring: Callable[[BaseLock], _T], *, frozen: bool) -> _T:
    """Return what `bring`, which fetches, gives for the project's base or the one in its place.

    Where no mirror and no dated archive has the locked packages, that is what was resolved in their
    place before, if the store has it, else the release's present packages. With `frozen`, and where
    the base itself is there, the `DebsError` stays.
    """
    base, store = project.catalog.base, project.store
    locked = read_base_lock(project.root, base)
    try:
        return bring(locked)
    except DebsError as error:
        if frozen or drift.is_built(store, locked):
            raise
        present = drift.recorded(store, base, locked)
        if not (present or error.gone):
            raise
    present = present or drift.resolve(store, base, locked, project.environ)
    say(f"warning: the base has drifted from its lock: {present.drift}")
    return bring(present)


def fetch_from(
    project: Project, wheels: Sequence[LockedWheel], debs: Sequence[LockedDeb], lock: BaseLock
) -> FetchReport:
    """Bring files into the store; `debs` are some of `lock`."""
    indexes = project.catalog.indexes
    return fetch(project.store, wheels, debs, indexes, project.environ, date=lock.date)
