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
from typing import TYPE_CHECKING

from installer.records import Hash, RecordEntry
from installer.scripts import Script
from installer.utils import Scheme, construct_record_file, parse_entrypoints

from torchkiln.archive import name_fault
from torchkiln.errors import ArchiveError
from torchkiln.layer import Entry
from torchkiln.wheelfile import BROKEN, WheelFile

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.lockfile import LockedWheel
    from torchkiln.venv import Venv


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


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """An entry that lies at `path` below the root of its installation scheme."""

    scheme: str
    path: str
    entry: Entry


class _Installation:
    """The way of one wheel into one environment, the same as that of PyPA's `installer`."""

    def __init__(self, file: WheelFile, venv: Venv) -> None:
        self.file = file
        self.venv = venv
        self._roots = {
            "purelib": venv.site,
            "platlib": venv.site,
            "scripts": f"{venv.prefix}/bin",
            "headers": f"{venv.headers}/{file.locked.name}",
            "data": venv.prefix,
        }

    def wheel(self) -> Wheel:
        placed = self._scripts()
        sources = []
        for info in self.file.members:
            parts = PurePosixPath(info.filename).parts
            # Shipped bytecode may not match its source (installer refuses it for the same reason).
            if "__pycache__" in parts or info.filename in self.file.replaced:
                continue
            scheme, path = self._place(parts)
            target = f"{self._roots[scheme]}/{path}"
            entry = self._entry(info, target, is_script=scheme == "scripts")
            placed.append(_Placed(scheme=scheme, path=path, entry=entry))
            if target.endswith(".py") and target.startswith(f"{self.venv.site}/"):
                sources.append(Source(member=info.filename, path=target))
        entries = [*(one.entry for one in placed), self._new_record(placed)]
        self._check_places(entries)
        sources.sort(key=lambda source: source.path)
        return Wheel(locked=self.file.locked, entries=tuple(entries), sources=tuple(sources))

    def _place(self, parts: tuple[str, ...]) -> tuple[str, str]:
        """Return the scheme of a member, and its path below the scheme's root."""
        data = f"{self.file.dist_info.removesuffix('.dist-info')}.data"
        if not parts[0].endswith(".data"):
            return "purelib", "/".join(parts)
        name, rest = (parts[1], parts[2:]) if len(parts) > 1 else ("", ())
        scheme = next((known for known in self._roots if known == name), None)
        if parts[0] != data or scheme is None or not rest:
            self.file.refuse("no such installation scheme", "/".join(parts))
        target = "/".join((self._roots[scheme], *rest))
        if self.venv.owns(target):
            self.file.refuse("it would replace a part of the environment itself", "/".join(parts))
        top, _, below = target.removeprefix(f"{self.venv.site}/").partition("/")
        if below and top.endswith(".dist-info"):
            self.file.refuse("it would add to what is installed by name", "/".join(parts))
        return scheme, "/".join(rest)

    def _entry(self, info: zipfile.ZipInfo, target: str, *, is_script: bool) -> Entry:
        sha256 = self.file.record.get(info.filename, "")
        # zipfile keeps the Unix mode in the upper half; of it only the x bit means something.
        mode = 0o755 if info.external_attr >> 16 & 0o111 else 0o644
        if is_script:
            data = b"".join(self.file.chunks(info, sha256))
            line, _, rest = data.partition(b"\n")
            if line.startswith(b"#!python"):
                data = f"#!{self.venv.interpreter}\n".encode() + rest
            return self._text(target, data, mode)
        return Entry(
            path=target,
            mode=mode,
            size=info.file_size,
            chunks=lambda: self.file.chunks(info, sha256),
            sha256=sha256,
            owner=self.file.locked.file,
        )

    def _scripts(self) -> list[_Placed]:
        """Return the programs of `entry_points.txt`."""
        name = "entry_points.txt"
        if not self.file.has_info(name):
            return []
        try:
            points = list(parse_entrypoints(self.file.info_text(name)))
        except (configparser.Error, AssertionError) as error:  # it asserts the form
            self.file.refuse(f"its entry points cannot be read: {error}", name)
        scripts = []
        for script, module, attribute, section in points:
            file, data = Script(script, module, attribute, section).generate(
                self.venv.interpreter, "posix"
            )
            target = f"{self._roots['scripts']}/{file}"
            if name_fault(file) or "/" in file or self.venv.owns(target):
                self.file.refuse("no name for a script", file)
            entry = self._text(target, data, mode=0o755)
            scripts.append(_Placed(scheme="scripts", path=file, entry=entry))
        return scripts

    def _check_places(self, entries: list[Entry]) -> None:
        seen: set[str] = set()
        for entry in entries:
            if entry.path in seen:
                self.file.refuse(f"two of its files go to one place: /{entry.path}")
            seen.add(entry.path)

    def _new_record(self, placed: list[_Placed]) -> Entry:
        """Return RECORD in the order and form of `installer`; bytecode is not listed."""
        own = f"{self.file.dist_info}/RECORD"
        records = [(Scheme(one.scheme), _record_entry(one)) for one in placed]
        records.append((Scheme("purelib"), RecordEntry(own, None, None)))
        with construct_record_file(records, self._from_site) as stream:
            return self._text(f"{self.venv.site}/{own}", stream.read())

    def _from_site(self, scheme: Scheme) -> str | None:
        """Return the way from site-packages to a scheme's root, as a prefix."""
        root = self._roots[scheme]
        return None if root == self.venv.site else f"{os.path.relpath(root, self.venv.site)}/"

    def _text(self, path: str, data: bytes, mode: int = 0o644) -> Entry:
        return Entry.text(path, data, mode=mode, owner=self.file.locked.file)


def _record_entry(one: _Placed) -> RecordEntry:
    encoded = base64.urlsafe_b64encode(bytes.fromhex(one.entry.sha256)).rstrip(b"=").decode()
    return RecordEntry(one.path, Hash("sha256", encoded), one.entry.size)
