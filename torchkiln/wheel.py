"""What a wheel brings to an image: its files as entries of a layer, each at its place.

The `.data` schemes, scripts and RECORD are those of the binary distribution format
(packaging.python.org/specifications).
"""

from __future__ import annotations

import base64
import configparser
import os
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from installer.scripts import Script
from installer.utils import parse_entrypoints

from torchkiln.archive import name_fault
from torchkiln.errors import ArchiveError
from torchkiln.layer import Entry
from torchkiln.wheelfile import BROKEN, WheelFile

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.lockfile import LockedWheel
    from torchkiln.venv import Venv

INSTALLER: Final = b"torchkiln\n"
_CSV_QUOTED: Final = frozenset(',"\n')


@dataclass(frozen=True, kw_only=True)
class Source:
    """A Python file of a wheel: the member's name and its place in the image, to be compiled."""

    member: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel that has been looked through."""

    locked: LockedWheel
    entries: tuple[Entry, ...]
    sources: tuple[Source, ...]


def read_wheel(path: Path, locked: LockedWheel, venv: Venv) -> Wheel:
    """Return what the wheel at `path` brings to `venv`.

    Raises `ArchiveError`, naming wheel and member, for a wheel that is not what its name says, and
    for names, links, sizes and RECORDs that no honest wheel has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Installation(WheelFile(path, archive, locked), venv).wheel()
    except BROKEN as error:
        what = f"this is no wheel: {locked.file}"
        raise ArchiveError(what, str(error)) from error


class _Installation:
    """The way of one wheel into one environment."""

    def __init__(self, file: WheelFile, venv: Venv) -> None:
        self.file = file
        self.venv = venv

    def wheel(self) -> Wheel:
        entries = []
        sources = []
        for info in self.file.members:
            parts = PurePosixPath(info.filename).parts
            # Shipped bytecode may not match its source (installer refuses it for the same reason).
            if "__pycache__" in parts or info.filename in self.file.replaced:
                continue
            target, is_script = self._place(parts)
            entry = self._entry(info, target, is_script=is_script)
            entries.append(entry)
            if target.endswith(".py") and target.startswith(f"{self.venv.site}/"):
                sources.append(Source(member=info.filename, path=target))
        entries += self._scripts()
        entries.append(self._text(f"{self.venv.site}/{self.file.dist_info}/INSTALLER", INSTALLER))
        entries.append(self._new_record(entries))
        self._check_places(entries)
        sources.sort(key=lambda source: source.path)
        return Wheel(locked=self.file.locked, entries=tuple(entries), sources=tuple(sources))

    def _place(self, parts: tuple[str, ...]) -> tuple[str, bool]:
        """Return the member's path in the image, and whether it is a script."""
        data = f"{self.file.dist_info.removesuffix('.dist-info')}.data"
        if not parts[0].endswith(".data"):
            return "/".join((self.venv.site, *parts)), False
        scheme, rest = (parts[1], parts[2:]) if len(parts) > 1 else ("", ())
        roots = {
            "purelib": self.venv.site,
            "platlib": self.venv.site,
            "scripts": f"{self.venv.prefix}/bin",
            "headers": f"{self.venv.headers}/{self.file.locked.name}",
            "data": self.venv.prefix,
        }
        if parts[0] != data or scheme not in roots or not rest:
            self.file.refuse("no such installation scheme", "/".join(parts))
        target = "/".join((roots[scheme], *rest))
        if self.venv.owns(target):
            self.file.refuse("it would replace a part of the environment itself", "/".join(parts))
        top, _, below = target.removeprefix(f"{self.venv.site}/").partition("/")
        if below and top.endswith(".dist-info"):
            self.file.refuse("it would add to what is installed by name", "/".join(parts))
        return target, scheme == "scripts"

    def _entry(self, info: zipfile.ZipInfo, target: str, *, is_script: bool) -> Entry:
        sha256 = self.file.record.get(info.filename, "")
        if is_script:
            data = b"".join(self.file.chunks(info, sha256))
            line, _, rest = data.partition(b"\n")
            if line.startswith(b"#!python"):
                data = f"#!{self.venv.interpreter}\n".encode() + rest
            return self._text(target, data, mode=0o755)
        # zipfile keeps the Unix mode in the upper half; of it only the x bit means something.
        executable = info.external_attr >> 16 & 0o111
        return Entry(
            path=target,
            mode=0o755 if executable else 0o644,
            size=info.file_size,
            chunks=lambda: self.file.chunks(info, sha256),
            sha256=sha256,
            owner=self.file.locked.file,
        )

    def _scripts(self) -> list[Entry]:
        """Return the programs of `entry_points.txt`."""
        name = "entry_points.txt"
        if not self.file.has_info(name):
            return []
        try:
            points = list(parse_entrypoints(self.file.info_text(name)))
        except (configparser.Error, AssertionError) as error:  # it asserts the form
            self.file.refuse(f"its entry points cannot be read: {error}", name)
        entries = []
        for script, module, attribute, section in points:
            file, data = Script(script, module, attribute, section).generate(
                self.venv.interpreter, "posix"
            )
            target = f"{self.venv.prefix}/bin/{file}"
            if name_fault(file) or "/" in file or self.venv.owns(target):
                self.file.refuse("no name for a script", file)
            entries.append(self._text(target, data, mode=0o755))
        return entries

    def _check_places(self, entries: list[Entry]) -> None:
        seen: set[str] = set()
        for entry in entries:
            if entry.path in seen:
                self.file.refuse(f"two of its files go to one place: /{entry.path}")
            seen.add(entry.path)

    def _new_record(self, entries: list[Entry]) -> Entry:
        """Return RECORD as pip would write it, sorted; bytecode is not listed."""
        rows = []
        for entry in entries:
            path = os.path.relpath(f"/{entry.path}", f"/{self.venv.site}")
            rows.append(f"{_quote(path)},sha256={_base64(entry.sha256)},{entry.size}\n")
        own = f"{self.file.dist_info}/RECORD"
        rows.append(f"{own},,\n")
        return self._text(f"{self.venv.site}/{own}", "".join(sorted(rows)).encode())

    def _text(self, path: str, data: bytes, mode: int = 0o644) -> Entry:
        return Entry.text(path, data, mode=mode, owner=self.file.locked.file)


def _base64(sha256: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode()


def _quote(path: str) -> str:
    """Return `path` as a field of a CSV row, quoted as RECORD's readers expect."""
    return '"' + path.replace('"', '""') + '"' if _CSV_QUOTED & set(path) else path
