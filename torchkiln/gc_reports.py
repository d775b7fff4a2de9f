"""What `gc` prints: what lies in the store, of what kind and whose it is, and what of it goes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final, get_args

from torchkiln.claims import State
from torchkiln.reports import megabytes, table

if TYPE_CHECKING:
    from torchkiln.claims import Claim
    from torchkiln.gc import Plan

_DAY: Final = 86400  # seconds
_STATES: Final[dict[State, str]] = {
    "here": "this checkout",
    "gone": "folder not found",
    "dropped": "--all-images",
    "by age": "goes by age",
}


def shown(done: Plan, *, removed: bool) -> str:
    """Return the tables for people."""
    goes = "removed" if removed else "would go"
    kinds = [
        (row.kind, f"{row.number}", megabytes(row.size), f"{row.going}", megabytes(row.freed))
        for row in done.rows
        if row.number
    ]
    lines = [f"store: {done.root}", "", *table(("kind", "number", "size", goes, "freed"), kinds)]
    if owners := [_row(done, claim) for claim in _ordered(done)]:
        heads = ("needed by", "variant", "lock", "last used", "", "size", "freed")
        lines += ["", *table(heads, owners)]
    lines += [
        f"warning: cannot read {one.title}: {_printable(one.fault)}"
        for one in done.claims
        if one.fault
    ]
    last = [] if removed or not done.going else ["", "nothing was removed: ./kiln gc --remove"]
    return "\n".join([*lines, *last])


def as_json(done: Plan, *, removed: bool) -> dict[str, Any]:
    """Return what `gc --json` prints; sizes in bytes on disk, paths below the store.

    `owners` says for whom things are kept, or went: what several need counts for each of them.
    """
    return {
        "schema_version": 1,
        "store": str(done.root),
        "removed": removed,
        "kinds": {row.kind: {**vars(row)} for row in done.rows},
        "owners": [_owner(done, claim) for claim in _ordered(done)],
        "going": [
            {
                "kind": thing.kind,
                "path": str(thing.path.relative_to(done.root)),
                "size": done.rooms[thing].freed,
            }
            for thing in done.going
        ],
    }


def _ordered(done: Plan) -> list[Claim]:
    """Return those that have something, those of this checkout first and those that go last."""
    states = get_args(State)
    told = [one for one in done.claims if one.kind != "other" and (one.paths or one.fault)]
    return sorted(
        told, key=lambda one: (states.index(one.state), one.title, not one.lock, one.variant)
    )


def _row(done: Plan, claim: Claim) -> tuple[str, ...]:
    room = done.room_of(claim)
    return (
        _printable(claim.title),
        _printable(claim.variant) if claim.lock or claim.kind != "project" else "other locks",
        claim.lock[:12],
        _used(done, claim),
        _STATES.get(claim.state, claim.state),
        megabytes(room.size),
        megabytes(room.freed),
    )


def _used(done: Plan, claim: Claim) -> str:
    if claim.used is None:
        return ""
    days = _days(done, claim.used)
    return f"{days} days ago" if days > 1 else ("today", "yesterday")[days]


def _days(done: Plan, used: float) -> int:
    return max(0, int((done.now - used) / _DAY))


def _owner(done: Plan, claim: Claim) -> dict[str, Any]:
    room = done.room_of(claim)
    used = claim.used
    return {
        "kind": claim.kind,
        "name": claim.title,
        "variant": claim.variant or None,
        "lock": claim.lock or None,
        "used": None if used is None else datetime.fromtimestamp(used, timezone.utc).isoformat(),
        "unused_days": None if used is None else _days(done, used),
        "state": claim.state,
        "fault": claim.fault or None,
        "size": room.size,
        "freed": room.freed,
    }


def _printable(text: str) -> str:
    """Return what a terminal shows as it is, of a record that anyone may have written."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
