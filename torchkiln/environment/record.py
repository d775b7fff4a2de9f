"""What an environment says of itself: what it was made from, and that it is finished.

    .torchkiln.lock               made first: the folder is ours; held by who works in it
    share/torchkiln/record.json   written last: what is not there was interrupted
    share/torchkiln/constraints.txt, image.json, smoke-cpu/   what `files` and the suite leave

So a folder that was interrupted, even with kill -9, is told from one that is done, and both from
one that is somebody else's.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torchkiln.digests import parse_sha256
from torchkiln.errors import EnvError
from torchkiln.files import write_atomic

if TYPE_CHECKING:
    from torchkiln.catalog import Variant

FORMAT: Final = 1
"""Raised when a change of this module makes older records unreadable."""

RECORD: Final = "record.json"
CONDA_RECORD: Final = "conda.json"
"""What `torchkiln.conda` writes in its place."""

_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", re.ASCII)
LOCK_FILE: Final = ".torchkiln.lock"  # not `.lock`: uv holds that one while it installs


@dataclass(frozen=True, kw_only=True, order=True)
class Pin:
    """One distribution (normalised `name`) and the sha256 (hex) of each wheel that it may be."""

    name: str
    version: str
    hashes: tuple[str, ...]

    @property
    def line(self) -> str:
        """Return it as a line of a requirements file."""
        return " ".join(
            [f"{self.name}=={self.version}", *(f"--hash=sha256:{h}" for h in self.hashes)]
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """What an environment was made from.

    `lock` is the digest of the variant's lock. `platform` is empty where the lock covers it, else
    what the pins were resolved for.
    `contents` is, by name, the digest of the files that a distribution was installed with.
    """

    variant: str
    manager: str
    lock: str
    python: str
    pins: tuple[Pin, ...]
    platform: str = ""
    contents: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """An environment at `root` (absolute): where things lie in it.

    `asked` is by which flags it was or would be made, for hints: `--cuda 117 --manager uv`.
    """

    root: Path
    asked: str = "--cpu"

    @property
    def interpreter(self) -> Path:
        """Return its Python."""
        return self.root / "bin" / "python"

    @property
    def own(self) -> Path:
        """Return the folder for what is no package."""
        return self.root / "share" / "torchkiln"

    @property
    def lock_file(self) -> Path:
        """Return the file that marks the folder as ours, and is locked by who works in it."""
        return self.root / LOCK_FILE

    def site(self, python: str) -> Path:
        """Return where packages lie; `python` is its version, of which major.minor count."""
        major, minor = python.split(".")[:2]
        return self.root / "lib" / f"python{major}.{minor}" / "site-packages"

    @property
    def shown(self) -> str:
        """Return its path as people type it here."""
        here = Path.cwd()
        return str(self.root.relative_to(here) if self.root.is_relative_to(here) else self.root)

    @property
    def recreate(self) -> str:
        """Return the command that makes it anew."""
        return f"./kiln env {self.asked} --path {shlex.quote(self.shown)} --recreate"

    @property
    def elsewhere(self) -> str:
        """Return the command that makes another one beside it."""
        name = self.shown.replace(os.pathsep, "-")
        return f"./kiln env {self.asked} --path {shlex.quote(f'{name}-new')}"


def environment(path: Path) -> Environment:
    """Return the environment that lies or will lie at `path`."""
    return Environment(root=Path.cwd() / path)


def asked(variant: Variant, manager: str) -> str:
    """Return the flags that name a variant and a manager."""
    return variant.flag if manager == "pip" else f"{variant.flag} --manager {manager}"


def read(env: Environment) -> Record | None:
    """Return the record of a finished environment, None where there is none.

    One of another format, or one that cannot be read, raises `EnvError`.
    """
    path = env.own / RECORD
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if body.pop("format") != FORMAT:
            raise EnvError(*_unreadable(env, "another version of Torchkiln wrote it"))
        return Record(pins=_pins(body.pop("pins")), **body)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvError(*_unreadable(env, str(error))) from None


def write(env: Environment, record: Record) -> None:
    """Say that the environment is finished, and what it was made from."""
    body = asdict(record) | {"format": FORMAT}
    write_atomic(env.own / RECORD, json.dumps(body, indent=1, sort_keys=True) + "\n")


def known(env: Environment) -> Record:
    """Return the record of an environment that must be one of ours and finished, or `EnvError`."""
    record = read(env)
    if record is not None:
        return record
    if env.lock_file.exists():
        what = f"the environment is not finished: {env.shown}"
        raise EnvError(what, "making it was interrupted", env.recreate)
    what = f"no environment of Torchkiln's: {env.shown}"
    raise EnvError(what, hint=f"./kiln env --cpu --path {shlex.quote(env.shown)}")


def _pins(entries: list[dict[str, Any]]) -> tuple[Pin, ...]:
    return tuple(
        Pin(
            name=_word(one["name"]),
            version=_word(one["version"]),
            hashes=tuple(map(parse_sha256, one["hashes"])),
        )
        for one in entries
    )


def _word(value: object) -> str:
    """Return a name or a version, which becomes a word of a requirements file."""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        message = f"invalid pin: {value!r}"
        raise ValueError(message)
    return value


def _unreadable(env: Environment, why: str) -> tuple[str, str, str]:
    what = f"the record of the environment cannot be read: {env.shown}"
    return what, why, env.recreate
