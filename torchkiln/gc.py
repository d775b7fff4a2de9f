"""Take out of the store what nothing needs any more: found by mark and sweep, shown first.

Kept is what the locks of this checkout need and those of the other projects that use the store
(`torchkiln.claims`), what was pulled, and with an age given what was made or used since. An image
counts as used when its layout was last asked for; all else by when it came. Access times say
nothing where a file system is mounted with `noatime`.

Whoever works in the store holds it (`torchkiln.hold`), so nothing is taken from under a build.
Files lose their names one by one, folders at once by a rename: killed at any point, this leaves a
store in which all that has a name is whole.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torchkiln.claims import claims, going
from torchkiln.hold import alone
from torchkiln.marks import Graph
from torchkiln.progress import Progress
from torchkiln.store import remove_tree
from torchkiln.stored import KINDS, Room, Thing, room, things

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.claims import Claim, Keep
    from torchkiln.pipeline import Project


@dataclass(frozen=True, kw_only=True)
class Row:
    """How many things of a kind there are and their bytes on disk, and how much of it goes."""

    kind: str
    number: int
    size: int
    going: int
    freed: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the store at `root` holds, for whom, and what goes; `rooms` has each thing's bytes.

    It was looked at at `now` (seconds since 1970).
    """

    root: Path
    now: float
    claims: tuple[Claim, ...]
    going: tuple[Thing, ...]
    rooms: dict[Thing, Room] = field(repr=False)

    @property
    def rows(self) -> list[Row]:
        """Return a row for each kind, and their sum."""
        return [*(self._row(kind, kind) for kind in KINDS), self._row("total", *KINDS)]

    def room_of(self, claim: Claim) -> Room:
        """Return the bytes of what someone needs; what several need counts for each of them."""
        things = [thing for thing in self.rooms if thing.path in claim.paths]
        leaving = frozenset(self.going)
        return Room(
            size=sum(self.rooms[thing].size for thing in things),
            freed=sum(self.rooms[thing].freed for thing in things if thing in leaving),
        )

    def _row(self, title: str, *kinds: str) -> Row:
        rooms = [room for thing, room in self.rooms.items() if thing.kind in kinds]
        return Row(
            kind=title,
            number=len(rooms),
            size=sum(room.size for room in rooms),
            going=sum(thing.kind in kinds for thing in self.going),
            freed=sum(room.freed for room in rooms),
        )


def plan(project: Project, keep: Keep) -> Plan:
    """Return what would go now; changes nothing."""
    found, now = things(project.store), time.time()
    graph = Graph(store=project.store, found=found)
    owners = claims(project, graph, keep, now)
    leaving = going(graph, owners, keep, now)
    with Progress("measuring", None) as progress:
        rooms = room(found, frozenset(leaving), progress.advance)
    return Plan(root=project.store.root, now=now, claims=tuple(owners), going=leaving, rooms=rooms)


def remove(project: Project, keep: Keep, *, wait: bool) -> Plan:
    """Remove what `plan` says while nobody else works in the store, and return that.

    Who comes meanwhile waits until all is renamed; unpacked images are emptied after that. Where
    the store is in use and `wait` is off, raise `StoreError`.
    """
    store = project.store
    with ExitStack() as trash:
        with alone(store, wait=wait), store.reporting():
            done = plan(project, keep)
            store.sweep()
            folders = [thing for thing in done.going if thing.path.is_dir()]
            files = [thing for thing in done.going if thing not in folders]
            # Files first: on a full disk they make room for the folder of what is renamed.
            for thing in files:
                if thing.kind != "records":
                    thing.path.unlink(missing_ok=True)
            if folders:
                place = trash.enter_context(store.workspace())
                for number, thing in enumerate(folders):
                    thing.path.rename(place / str(number))
            # Last, and roots behind layers: without them what is left would be nobody's.
            for thing in files:
                if thing.kind == "records":
                    thing.path.unlink(missing_ok=True)
        with Progress("removing", sum(done.rooms[thing].freed for thing in folders)) as progress:
            for number, thing in enumerate(folders):
                remove_tree(place / str(number))
                progress.advance(done.rooms[thing].freed)
    return done
