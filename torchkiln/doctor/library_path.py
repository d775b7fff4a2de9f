"""LD_LIBRARY_PATH: its folders that have what torch brings itself, and the path without them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re


def folders(text: str, library: re.Pattern[str]) -> dict[Path, str]:
    """Return the folders of `text` that have a file of such a name, each with the first of them."""
    every = [Path(one) for one in text.split(":") if one]
    return {folder: names[0] for folder in every if (names := _named(folder, library))}


def without(text: str, guilty: dict[Path, str]) -> str:
    """Return the command that takes `guilty` off the path; all of it where none is known."""
    keep = [one for one in text.split(":") if one and guilty and Path(one) not in guilty]
    if keep:
        return f"export LD_LIBRARY_PATH={shlex.quote(':'.join(keep))}"
    return "unset LD_LIBRARY_PATH"


def _named(folder: Path, library: re.Pattern[str]) -> list[str]:
    try:
        return sorted(one.name for one in folder.iterdir() if library.fullmatch(one.name))
    except OSError:
        return []
