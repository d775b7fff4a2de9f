"""Whose things lie in a store: what each project needs, what was pulled, and what has nobody.

A project (`torchkiln.projects`) keeps what it needs until its folder is gone, or until it was
unused for 30 days. What no project needs and none has needed may be that of a clone whose Torchkiln
does not register: it stays for as long. This checkout's present locks keep theirs in any case.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from torchkiln.drift import RECORDS as DRIFTED
from torchkiln.projects import KIND, is_gone, records
from torchkiln.roots import roots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from torchkiln.marks import Graph
    from torchkiln.pipeline import Project
    from torchkiln.projects import Record, Root
    from torchkiln.stored import Thing

UNUSED: Final = 30
"""Days for which a project keeps what it needs after it used it."""

Kind = Literal["project", "unreadable", "pulled", "other", "unknown"]
State = Literal["here", "kept", "gone", "unused", "dropped", "by age"]
Lock = tuple[str, str, str]
"""A lock by project, variant and sha256."""

_STAYS: Final = frozenset({"here", "kept"})
_GOES: Final = frozenset({"gone", "unused", "dropped"})
_MADE: Final = frozenset({"layers", "bytecode", DRIFTED, KIND})
"""Kinds of records that follow the roots."""

_PULLED: Final = "pulled"
_DAY: Final = 86400  # seconds


@dataclass(frozen=True, kw_only=True)
class Keep:
    """What is kept beside what locks need: things younger than `days`, inputs, pulled images.

    `unused` is for how many days a project, and what has none, is kept.
    """

    days: float = 0
    unused: float = UNUSED
    inputs: bool = False
    pulled: bool = True


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is there of what someone needs, and whether it stays for that.

    `title` is the project's path; `used` is in seconds since 1970, None where it is not known.
    """

    kind: Kind
    title: str
    state: State
    paths: frozenset[Path]
    variant: str = ""
    lock: str = ""
    used: float | None = None
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Here:
    """The present locks of this checkout: what each needs, and all of them."""

    locks: dict[Lock, frozenset[Path]]
    needs: frozenset[Path]


def claims(project: Project, graph: Graph, keep: Keep, now: float) -> list[Claim]:
    """Return who needs what, and last what nobody does."""
    locks = {_lock(root): graph.of_root(root) for root in roots(project)}
    here = Here(locks=locks, needs=_union(locks.values()))
    registered = [_of_record(graph, record, here, keep, now) for record in records(graph.store)]
    used = {(one.title, one.variant, one.lock) for one in registered if one.state == "here"}
    others = _union(needs for lock, needs in locks.items() if lock not in used)
    found = [
        *_merged(registered),
        Claim(kind="project", title=str(project.root), state="here", paths=others),
        *_without_project(graph, keep),
    ]
    claimed = _union(one.paths for one in found)
    rest = {thing.path for thing in graph.found if thing.kind != "leftovers"} - claimed
    unknown = Claim(kind="unknown", title="no project known", state="by age", paths=frozenset(rest))
    return [*found, unknown]


def going(graph: Graph, found: Sequence[Claim], keep: Keep, now: float) -> tuple[Thing, ...]:
    """Return what goes: what is needed by nobody who stays, and is old enough."""
    kept = _union(one.paths for one in found if one.state in _STAYS)
    lost = _union(one.paths for one in found if one.state in _GOES)

    def is_young(path: Path) -> bool:
        return _young(_time(path), keep.days, now) or (
            path not in lost and _young(_time(path), keep.unused, now)
        )

    kept |= graph.of_images([image for image in graph.images if is_young(image.path)])
    return tuple(
        thing
        for thing in graph.found
        if thing.kind == "leftovers" or not (thing.path in kept or is_young(thing.path))
    )


def _lock(root: Root) -> Lock:
    return str(root.project), root.variant, root.lock


def _of_record(graph: Graph, record: Record, here: Here, keep: Keep, now: float) -> Claim:
    root = record.root
    title = str(record.path.relative_to(graph.store.root) if record.fault else root.project)
    needs = graph.of_root(root)
    state = _state(record, keep, now)
    # What other code made from a present lock has an age; all else is needed as long as that is.
    if _lock(root) in here.locks and (state == "kept" or needs <= here.needs):
        state, needs = "here", needs | here.locks[_lock(root)]
    return Claim(
        kind="unreadable" if record.fault else "project",
        title=title,
        variant=root.variant,
        lock=root.lock,
        state=state,
        paths=needs | {record.path},
        used=record.used,
        fault=record.fault,
    )


def _state(record: Record, keep: Keep, now: float) -> State:
    if _young(record.used, keep.days, now):
        return "kept"
    if not record.fault and is_gone(record.root):
        return "gone"
    return "kept" if _young(record.used, keep.unused, now) else "unused"


def _merged(found: Sequence[Claim]) -> Iterator[Claim]:
    """Give one claim for all of a lock: those of its images, environments and earlier code."""
    groups: dict[tuple[str, ...], list[Claim]] = defaultdict(list)
    for one in found:
        groups[one.state, one.title, one.variant, one.lock].append(one)
    for every in groups.values():
        latest = max(every, key=lambda one: one.used or 0)
        yield replace(latest, paths=_union(one.paths for one in every))


def _without_project(graph: Graph, keep: Keep) -> Iterator[Claim]:
    """Give what was pulled, and what is kept without being asked for."""
    pulled = graph.of_records(graph.records(_PULLED))
    state: State = "kept" if keep.pulled else "dropped"
    yield Claim(kind="pulled", title="pulled images", state=state, paths=pulled)
    other = [path for path in graph.of_kind("records") if path.parent.name not in _MADE | {_PULLED}]
    paths = graph.of_all | graph.of_records(other)
    if keep.inputs:
        paths = paths.union(graph.of_kind("wheels", "debs", "conda packages"))
    yield Claim(kind="other", title="", state="kept", paths=paths)


def _union(sets: Iterable[frozenset[Path]]) -> frozenset[Path]:
    return frozenset(path for one in sets for path in one)


def _young(time: float, days: float, now: float) -> bool:
    return days > 0 and time > now - days * _DAY


def _time(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0
