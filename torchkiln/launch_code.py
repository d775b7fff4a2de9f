"""Code that a job brings along: text files of a folder here, for where no folder can be mounted.

Kubernetes starts pods on machines that know nothing of this one. A ConfigMap needs no claim and no
image of its own, and stands in the same manifest, but holds 1 MiB of text at most.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.launch_words import PYTHONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_BYTES: Final = 1 << 20
"""All values of a ConfigMap together (Kubernetes calls it `MaxSecretSize`)."""

_MOST_FILES: Final = 500


@dataclass(frozen=True, kw_only=True)
class CodeFile:
    """A file at `path`, relative to the folder that becomes the job's /workspace."""

    path: str
    text: str


def read_code(folder: Path, name: str) -> list[CodeFile]:
    """Return the file `name` of `folder`, or all files below it; faults raise `ValueError`.

    Hidden files stay here, which are histories, environments and secrets, and so does bytecode. Any
    other file that does not fit is a fault, so that nothing is missing without a word.
    """
    path = os.path.normpath(name)
    if Path(path).is_absolute() or Path(path).parts[:1] == ("..",):
        message = "not below this folder, which becomes /workspace"
        raise ValueError(message)
    paths = [path] if (folder / path).is_file() else list(_below(folder, path))
    if not paths:
        message = "not found, or a folder without files"
        raise ValueError(message)
    for one in paths:
        _demand_file(folder, one)
    if sum((folder / one).stat().st_size for one in paths) > MOST_BYTES:
        message = "larger than 1 MiB, the most that a ConfigMap holds"
        raise ValueError(message)
    return [CodeFile(path=one, text=_text(folder, one)) for one in paths]


def _demand_file(folder: Path, path: str) -> None:
    """Raise `ValueError` unless there is a file that lies in the folder, not behind a link out."""
    if not (folder / path).is_file():
        message = f"not a file: {path}"
        raise ValueError(message)
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        message = f"a link that leads out of this folder: {path}"
        raise ValueError(message)


def _below(folder: Path, path: str) -> Iterator[str]:
    """Yield the paths of the files below a folder, sorted; too many raise `ValueError`."""
    number = 0
    for parent, folders, files in os.walk(folder / path):
        folders[:] = sorted(one for one in folders if one[0] != "." and one != "__pycache__")
        for link in (one for one in folders if Path(parent, one).is_symlink()):
            message = f"a link to a folder: {os.path.relpath(Path(parent, link), folder)}"
            raise ValueError(message)
        for file in sorted(one for one in files if one[0] != "."):
            number += 1
            if number > _MOST_FILES:
                message = f"more than {_MOST_FILES} files: name those that the job needs"
                raise ValueError(message)
            yield os.path.relpath(Path(parent, file), folder)


def _text(folder: Path, path: str) -> str:
    if not path.isprintable():
        message = f"the path has a character that cannot be printed: {path!r}"
        raise ValueError(message)
    try:
        return (folder / path).read_bytes().decode()
    except UnicodeDecodeError:
        message = f"not a text file (UTF-8): {path}"
        raise ValueError(message) from None


def local_code(folder: Path, command: Sequence[str]) -> list[str]:
    """Return what of the command lies in `folder`: words that are files, and the module it runs."""
    module = _module(command)
    found = [word for word in command if _has(folder, word, os.path.isfile)]
    return found + [one for one in (module, f"{module}.py") if _has(folder, one, os.path.exists)]


def script(command: Sequence[str]) -> str:
    """Return the file that a Python runs, as the command names it; "" where it runs none."""
    if len(command) > 1 and command[0] in PYTHONS and not command[1].startswith("-"):
        return command[1]
    return ""


def brings(files: Sequence[CodeFile], path: str) -> bool:
    """Tell whether `files` have the file or folder at `path`."""
    wanted = os.path.normpath(path)
    return any(one.path == wanted or one.path.startswith(f"{wanted}/") for one in files)


def _module(command: Sequence[str]) -> str:
    """Return the package or module at the top of the one that a Python runs, "" where none."""
    is_module = len(command) > 2 and command[0] in PYTHONS and command[1] == "-m"  # noqa: PLR2004
    return command[2].partition(".")[0] if is_module else ""


def _has(folder: Path, word: str, test: Callable[[Path], bool]) -> bool:
    """Test a word of any length and content, of which pathlib's own tests refuse some."""
    return bool(word) and not Path(word).is_absolute() and test(folder / word)
