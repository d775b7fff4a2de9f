"""Which projects use a store, and what each needs of it: the roots of `torchkiln.gc`.

    records/roots/<key>.json   a project, one of its locks and what that needs; the file's time is
                               when that was last used

A command registers the lock that it works with before it fetches or makes anything, so that `gc` in
another clone knows of it. The key is a hash of all that is needed: an older branch, with other
locks or with code that makes other layers, has a record beside today's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torchkiln.lockfile import lock_hash, lock_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torchkiln.lockfile import LockedDeb, LockedWheel
    from torchkiln.store import Store

KIND: Final = "roots"
FORMAT: Final = 1
"""Raised when a change of this module makes older records unreadable."""

_CATALOG: Final = "images/variants.yaml"
_SETS: Final = ("inputs", "layers", "conda")
_MOST: Final = 1 << 20  # bytes of a record; with 60 wheels and 120 .debs it has 15,000
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Root:
    """A lock of the project at `project` (absolute), and what it needs of a store.

    `variant` is the lock's name (`cpu`, `debian-bookworm`), `lock` its file's sha256. `inputs` are
    the sha256 of wheels and .debs, `layers` the keys of layers, `conda` conda's packages, as
    name-version-build. `machine` is where the path was seen.
    """

    project: Path
    variant: str
    lock: str
    inputs: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()
    conda: frozenset[str] = frozenset()
    machine: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A root as the store has it, last used at `used` (seconds since 1970).

    Where `fault` says why it cannot be read, it is of no project, and needs all that it names.
    """

    path: Path
    used: float
    root: Root
    fault: str = ""


def register(store: Store, root: Root) -> None:
    """Note that the project uses the lock now."""
    body = _body(root)
    store.write_record(KIND, _key(body), body | {"format": FORMAT, "machine": root.machine})


def use(
    store: Store,
    project: Path,
    lock: Path,
    files: Iterable[LockedWheel | LockedDeb] = (),
    *,
    layers: Iterable[str] = (),
    conda: Iterable[str] = (),
) -> None:
    """Register what the project needs for the lock at `lock`.

    To be called before anything of it is brought into the store or made there.
    """
    root = Root(
        project=project,
        variant=lock_name(lock),
        lock=lock_hash(lock),
        inputs=frozenset(file.sha256 for file in files),
        layers=frozenset(layers),
        conda=frozenset(conda),
    )
    register(store, root)


def records(store: Store) -> list[Record]:
    """Return all roots that are registered, those that cannot be read too."""
    return [_read(path) for path in sorted((store.root / "records" / KIND).glob("*.json"))]


def is_gone(root: Root) -> bool:
    """Tell whether the project is no more at its path.

    One that cannot be read is there, and one that another machine has may be. An empty folder in
    its place, or none around it, may be where a file system is not mounted now.
    """
    try:
        (root.project / _CATALOG).lstat()
    except (FileNotFoundError, NotADirectoryError):
        place = root.project if root.project.is_dir() else root.project.parent
        return root.machine == socket.gethostname() and _has_entries(place)
    except OSError:
        return False
    return False


def _body(root: Root) -> dict[str, Any]:
    """Return what the key of a root is the hash of."""
    texts = {"project": str(root.project), "variant": root.variant, "lock": root.lock}
    return texts | {name: sorted(getattr(root, name)) for name in _SETS}


def _key(body: dict[str, Any]) -> str:
    """Return the hash of `body`, as ASCII: a path need not be UTF-8."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Record:
    used, text = path.lstat().st_mtime, ""
    try:
        text = _text(path)
        return Record(path=path, used=used, root=_parse(text, path.stem))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        named = frozenset(_HASH.findall(text))
        root = Root(project=Path("/"), variant="", lock="", inputs=named, layers=named)
        return Record(path=path, used=used, root=root, fault=str(error) or repr(error))


def _text(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(_MOST).decode(errors="replace")


def _parse(text: str, key: str) -> Root:
    """Return the root in a record; one that is not as `register` wrote it raises `ValueError`.

    So do `KeyError`, `TypeError` and `AttributeError` say it.
    """
    body = json.loads(text)
    fits = body.pop("format") == FORMAT
    machine = body.pop("machine")
    if not fits or _key(body) != key:
        what = "corrupt, or of another Torchkiln"
        raise ValueError(what)
    sets: dict[str, Any] = {name: frozenset(body.pop(name)) for name in _SETS}
    root = Root(project=Path(body.pop("project")), machine=machine, **sets, **body)
    hashes = [*root.inputs, *root.layers, *filter(None, [root.lock])]
    if not (
        all(isinstance(text, str) for text in (root.variant, root.machine, *root.conda))
        and all(map(_HASH.fullmatch, hashes))
        and root.project.is_absolute()
        and "\0" not in str(root.project)
    ):
        what = "invalid fields"
        raise ValueError(what)
    return root


def _has_entries(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
