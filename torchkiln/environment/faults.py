"""Which installed files are not what their package says: all of them hashed, on all cores."""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchkiln.files import sha256_of
from torchkiln.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True)
class InstalledFile:
    """A file of the distribution or package `owner`, as `name` in it.

    `sha256` (hex) and `size` (bytes) are as it was installed; what is not told is not compared.
    """

    owner: str
    name: str
    path: Path
    sha256: str = ""
    size: int | None = None


def find_faults(files: Sequence[InstalledFile]) -> dict[str, list[str]]:
    """Return by owner what is wrong with its files: `changed: bin/a, bin/b and 3 more`."""
    with (
        Progress("check", sum(file.size or 0 for file in files)) as progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        found = list(pool.map(lambda file: _fault(file, progress), files))
    wrong: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file, fault in zip(files, found, strict=True):
        if fault:
            wrong[file.owner][fault].append(file.name)
    return {owner: list(_said(faults)) for owner, faults in wrong.items()}


def _said(faults: dict[str, list[str]]) -> Iterator[str]:
    for fault, names in sorted(faults.items(), reverse=True):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"{fault}: {', '.join(names[:_SHOWN])}{more}"


def _fault(file: InstalledFile, progress: Progress) -> str:
    """Return what is wrong with an installed file: `missing`, `changed`, `unreadable`, or ""."""
    progress.advance(file.size or 0)
    try:
        with file.path.open("rb") as stream:
            if not file.sha256:  # RECORD itself, bytecode that an installer compiled
                return ""
            if file.size is not None and os.fstat(stream.fileno()).st_size != file.size:
                return "changed"
            same = sha256_of(stream) == file.sha256
    except FileNotFoundError:
        return "" if file.path.suffix == ".pyc" else "missing"
    except OSError:
        return "unreadable"
    return "" if same else "changed"
