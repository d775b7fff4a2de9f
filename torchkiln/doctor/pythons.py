"""Which Python is examined: the one that a person names, or the one that `python` would start."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAMES: Final = ("bin/python", "bin/python3", "python.exe", "Scripts/python.exe")
_OWN: Final = Path(sys.prefix) if sys.prefix != sys.base_prefix else None
"""Torchkiln's own environment, where it is what runs this."""


def find(named: str, environ: Mapping[str, str]) -> Path | None:
    """Return the Python that `named` means: a Python, a virtual environment, a conda prefix.

    With "" it is that of the active environment, else the first on PATH; None where there is none.
    Torchkiln's own environment is not what anyone means.
    """
    places = _named(Path(named).expanduser()) if named else _in_use(environ)
    return next((one.absolute() for one in places if _is_program(one)), None)


def _named(path: Path) -> Iterator[Path]:
    # A link to a Python that is gone is named too: that is what is wrong then.
    return iter([path / name for name in _NAMES] if path.is_dir() else [path])


def _in_use(environ: Mapping[str, str]) -> Iterator[Path]:
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = environ.get(variable)
        if prefix and Path(prefix) != _OWN:
            yield from _named(Path(prefix))
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        if folder and not (_OWN and Path(folder) == _OWN / "bin"):
            yield Path(folder) / "python3"
            yield Path(folder) / "python"


def _is_program(path: Path) -> bool:
    # Not pathlib's own: a folder on PATH that is closed to this user is an error there.
    return os.path.islink(path) or (os.path.isfile(path) and os.access(path, os.X_OK))  # noqa: PTH113, PTH114
