"""Which file was wanted, and why it cannot be fetched: one error for all files of a fetch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from torchkiln.errors import FetchError
from torchkiln.lockfile import DEFAULT_SOURCE
from torchkiln.transport import StatusError

if TYPE_CHECKING:
    from collections.abc import Sequence

_ABSENT: Final = frozenset({404, 410})  # HTTP: not found, gone


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that a lock names; `place` is a .deb's archive or the index that a wheel came from."""

    kind: Literal["wheel", "deb"]
    name: str
    version: str
    file: str
    size: int
    sha256: str
    place: str


class DebsError(FetchError):
    """Only .debs cannot be fetched; `gone` are those that the mirror dropped."""

    def __init__(self, what: str, why: str, hint: str, gone: Sequence[str]) -> None:
        super().__init__(what, why, hint)
        self.gone = tuple(gone)


class FileError(FetchError):
    """One file cannot be fetched; `is_gone`: its mirror answers, and does not have it."""

    def __init__(self, wanted: Wanted, why: str, hint: str, *, is_gone: bool) -> None:
        super().__init__(f"cannot fetch {wanted.file.rpartition('/')[2]}", why, hint)
        self.wanted = wanted
        self.is_gone = is_gone


def failure(wanted: Wanted, failures: Sequence[FetchError]) -> FileError:
    """Return the error for one file, from the failures at each place where it may be."""
    why = "\n".join(f"{one.what}: {one.why}" for one in failures)
    hint = next((one.hint for one in failures if one.hint), "")
    # The mirror is asked first, and is the one that follows the release.
    is_gone = wanted.kind == "deb" and bool(failures) and _is_absent(failures[0])
    if is_gone:
        why = f"the mirror has replaced the locked version by an update\n{why}"
        hint = "./kiln lock --base"
    elif wanted.kind == "wheel" and not failures:
        why = "no configured package index or find-links page offers it"
        hint = (
            "name a source that does: export PIP_EXTRA_INDEX_URL=<URL> or PIP_FIND_LINKS=<folder>"
        )
    elif wanted.kind == "wheel" and wanted.place != DEFAULT_SOURCE and not hint:
        # The one index that has this wheel is down, or out of reach of this network.
        hint = "put the wheel into a folder and name that: export PIP_FIND_LINKS=<folder>"
    hint = hint or "try again: what has come so far is kept"
    return FileError(wanted, why, hint, is_gone=is_gone)


def _is_absent(error: FetchError) -> bool:
    """Tell whether a server, or a folder, answered that it has no such file."""
    if isinstance(error, StatusError):
        return error.status in _ABSENT
    return isinstance(error.__cause__, FileNotFoundError)


def summary(failures: Sequence[FileError], wanted: int) -> FetchError:
    """Return one error that names all files that failed."""
    if all(one.wanted.kind == "deb" for one in failures):
        return _debs_error(failures, wanted)
    if len(failures) == 1:
        return failures[0]
    what = f"{len(failures)} of {wanted} files cannot be fetched"
    return FetchError(what, *_together(failures))


def _debs_error(failures: Sequence[FileError], wanted: int) -> DebsError:
    """Return the error that names the packages with their versions."""
    gone = sorted(f"{f.wanted.name} {f.wanted.version}" for f in failures if f.is_gone)
    what = f"{len(failures)} of {wanted} files cannot be fetched"
    if len(failures) == 1:
        what = failures[0].what
    if gone:
        what = f"locked Debian packages not found on the mirror: {', '.join(gone)}"
    return DebsError(what, *_together(failures), gone)


def _together(failures: Sequence[FileError]) -> tuple[str, str]:
    """Return the reasons and the hints of several errors as one of each."""
    ordered = sorted(failures, key=lambda one: one.what)
    if len(ordered) == 1:
        return ordered[0].why, ordered[0].hint
    lines = [line for f in ordered for line in (f.what, *(f"  {why}" for why in f.why.split("\n")))]
    hints = dict.fromkeys(failure.hint for failure in ordered)
    return "\n".join(lines), "\nhint: ".join(hints)
