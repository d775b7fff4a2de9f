"""What a build fetches: its wheels, and the base's packages, or what is there in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from torchkiln import drift, snapshot
from torchkiln.errors import FetchError, LockError
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
    place before, if the store has it, else the release's present packages. Once such a base is
    built it stays, and nothing is asked for again, until the lock is renewed, a dated archive is
    set or `frozen` is. With that, and where the locked base is there, a `DebsError` stays.
    """
    base, store = project.catalog.base, project.store
    locked = read_base_lock(project.root, base)
    is_built = drift.is_built(store, locked)
    present = None if frozen or is_built else drift.recorded(store, base, locked)
    if present and drift.is_built(store, present) and not project.environ.get(snapshot.SETTING):
        return bring(_told(present))
    try:
        return bring(locked)
    except DebsError as error:
        if frozen or is_built or not (present or error.gone):
            raise
        present = present or _resolved(project, locked, error)
    return bring(_told(present))


def _told(present: BaseLock) -> BaseLock:
    """Return the lock of the base that is taken, after a warning where it has drifted."""
    if present.drifted:
        say(f"warning: the base has drifted from its lock: {present.drift}")
    return present


def _resolved(project: Project, locked: BaseLock, error: DebsError) -> BaseLock:
    """Return the release's present packages; where there are none, both errors are told as one."""
    try:
        return drift.resolve(project.store, project.catalog.base, locked, project.environ)
    except (FetchError, LockError) as failure:
        why = f"{error.why}\nthe present packages cannot take their place: {failure.what}"
        hint = failure.hint or error.hint
        raise DebsError(error.what, f"{why}\n{failure.why}", hint, error.gone) from None


def fetch_from(
    project: Project, wheels: Sequence[LockedWheel], debs: Sequence[LockedDeb], lock: BaseLock
) -> FetchReport:
    """Bring files into the store; `debs` are some of `lock`."""
    indexes = project.catalog.indexes
    return fetch(project.store, wheels, debs, indexes, project.environ, date=lock.date)
