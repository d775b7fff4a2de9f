"""A wheel's files as entries of a layer: where they go, what may be in them, what is refused.

Follows the binary distribution format (packaging.python.org/specifications): one `.dist-info`,
`.data` schemes, RECORD with a sha256 for each file. The wheel's own sha256 was checked when it was
fetched; RECORD is checked while the bytes stream into the layer.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import os
import struct
import unicodedata
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, NoReturn

from installer.records import InvalidRecordEntry, parse_record_file
from installer.scripts import Script
from installer.utils import parse_entrypoints
from isal.igzip_lib import IsalError
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from torchkiln.archive import inflate, member_fault, name_fault
from torchkiln.errors import ArchiveError
from torchkiln.layer import CHUNK, Entry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torchkiln.lockfile import LockedWheel

INSTALLER: Final = b"torchkiln\n"
_MAX_UNPACKED: Final = 32 << 30
_MAX_RATIO: Final = 200  # torch's wheels unpack to 4 times their size, text at most to 20 times
_LOCAL_HEADER: Final = 30  # bytes, before name and extra field (APPNOTE.TXT 4.3.7)
_PIP_QUOTES: Final = frozenset(',"\n')
# A RECORD of our own replaces the wheel's, which a signature (the other two) would be about.
_UNLISTED: Final = ("RECORD", "RECORD.jws", "RECORD.p7s")
_MAX_TEXT: Final = 64 << 20  # bytes of a file that is read whole; torch's RECORD has 1.2 MB
# What zipfile raises for a broken file; bad UTF-8, names and versions are ValueErrors.
_BROKEN: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    OverflowError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, kw_only=True)
class Venv:
    """The virtual environment of an image: `prefix` without leading slash, Python's major.minor."""

    prefix: str
    python: str

    @property
    def site(self) -> str:
        """Return where packages go."""
        return f"{self.prefix}/lib/python{self.python}/site-packages"

    @property
    def interpreter(self) -> str:
        """Return the interpreter's path in the image, for `#!` lines."""
        return f"/{self.prefix}/bin/python"

    def owns(self, path: str) -> bool:
        """Tell whether the environment itself has `path`, which no wheel may replace."""
        folders = {f"{self.prefix}/bin", self.site, *map(str, PurePosixPath(self.site).parents)}
        own = (f"{self.prefix}/pyvenv.cfg", f"{self.prefix}/bin/python")
        return path in folders or path.startswith(own)


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
            return _Reader(path, archive, locked, venv).read()
    except _BROKEN as error:
        what = f"this is no wheel: {locked.file}"
        raise ArchiveError(what, str(error)) from error


class _Reader:
    def __init__(
        self, path: Path, archive: zipfile.ZipFile, locked: LockedWheel, venv: Venv
    ) -> None:
        self.path = path
        self.archive = archive
        self.locked = locked
        self.venv = venv
        self.owner = locked.file

    def read(self) -> Wheel:
        # Not info.is_dir(): that raises IndexError for a member without a name.
        members = [info for info in self.archive.infolist() if not info.filename.endswith("/")]
        self._check_members(members)
        self._check_identity(members)
        record = self._record(members)
        entries = []
        sources = []
        for info in members:
            parts = PurePosixPath(info.filename).parts
            # Shipped bytecode may not match its source (installer refuses it for the same reason).
            if "__pycache__" in parts or info.filename in self._replaced:
                continue
            target, is_script = self._place(parts)
            entry = self._entry(info, target, record, is_script=is_script)
            entries.append(entry)
            if target.endswith(".py") and target.startswith(f"{self.venv.site}/"):
                sources.append(Source(member=info.filename, path=target))
        entries += self._scripts()
        entries.append(self._text(f"{self.venv.site}/{self.dist_info}/INSTALLER", INSTALLER))
        entries.append(self._new_record(entries))
        self._check_places(entries)
        sources.sort(key=lambda source: source.path)
        return Wheel(locked=self.locked, entries=tuple(entries), sources=tuple(sources))

    def _refuse(self, why: str, member: str = "") -> NoReturn:
        where = f" in `{member}`" if member else ""
        what = f"refused wheel{where}: {self.owner}"
        raise ArchiveError(what, why)

    def _check_members(self, members: list[zipfile.ZipInfo]) -> None:
        seen: set[str] = set()
        for info in members:
            name = info.filename
            if fault := member_fault(info):
                self._refuse(fault, name)
            folded = unicodedata.normalize("NFC", name)
            if folded in seen:
                self._refuse("it holds this name twice", name)
            seen.add(folded)
        packed = self.path.stat().st_size
        unpacked = sum(info.file_size for info in members)
        if unpacked > _MAX_UNPACKED or unpacked > max(packed * _MAX_RATIO, CHUNK):
            self._refuse(f"{packed} bytes would unpack to {unpacked}")
        # Overlapping members are how a small zip unpacks to petabytes (Fifield, WOOT 2019).
        end = 0
        for info in sorted(members, key=lambda info: info.header_offset):
            if info.header_offset < end:
                self._refuse("its members overlap", info.filename)
            end = info.header_offset + _LOCAL_HEADER + info.compress_size
            if end > packed:
                self._refuse("it would end after the end of the file", info.filename)

    def _check_identity(self, members: list[zipfile.ZipInfo]) -> None:
        name, version, _, _ = parse_wheel_filename(self.locked.file)
        if (name, version) != (canonicalize_name(self.locked.name), Version(self.locked.version)):
            self._refuse(f"it is locked as {self.locked.name} {self.locked.version}")
        tops = {PurePosixPath(info.filename).parts[0] for info in members}
        found = sorted(top for top in tops if top.endswith(".dist-info"))
        if len(found) != 1:
            self._refuse(f"it must hold one .dist-info, it holds {len(found)}")
        self.dist_info = found[0]
        self._unlisted = {f"{self.dist_info}/{name}" for name in _UNLISTED}
        self._replaced = {*self._unlisted, f"{self.dist_info}/INSTALLER"}
        metadata = HeaderParser().parsestr(self._info_text("METADATA"))
        says_name, says_version = str(metadata["Name"]), str(metadata["Version"])
        if canonicalize_name(says_name) != name or Version(says_version) != version:
            self._refuse(f"its METADATA says it is {says_name} {says_version}")
        # importlib.metadata finds a distribution by the name of this folder.
        if canonicalize_name(self.dist_info.removesuffix(".dist-info").rpartition("-")[0]) != name:
            self._refuse(f"its .dist-info is another's: {self.dist_info}")

    def _record(self, members: list[zipfile.ZipInfo]) -> dict[str, str]:
        """Return the sha256 (hex) that RECORD gives for each member."""
        lines = io.StringIO(self._info_text("RECORD"), newline="")
        try:
            rows = list(parse_record_file(lines))
        except (csv.Error, InvalidRecordEntry) as error:
            self._refuse(f"RECORD cannot be read: {error}")
        names = {info.filename for info in members}
        hashes: dict[str, str] = {}
        for path, value, _ in rows:
            algorithm, _, encoded = value.partition("=")
            if path in hashes:
                self._refuse("RECORD has two rows for it", path)
            if path not in names:
                self._refuse("RECORD names it, the wheel does not hold it", path)
            hashes[path] = _hex(encoded) if algorithm == "sha256" else ""
        for name in sorted(names - self._unlisted):
            if not hashes.get(name):
                self._refuse("RECORD has no sha256 for it", name)
        return hashes

    def _place(self, parts: tuple[str, ...]) -> tuple[str, bool]:
        """Return the member's path in the image, and whether it is a script."""
        data = f"{self.dist_info.removesuffix('.dist-info')}.data"
        if not parts[0].endswith(".data"):
            return "/".join((self.venv.site, *parts)), False
        scheme, rest = (parts[1], parts[2:]) if len(parts) > 1 else ("", ())
        roots = {
            "purelib": self.venv.site,
            "platlib": self.venv.site,
            "scripts": f"{self.venv.prefix}/bin",
            "headers": f"{self.venv.prefix}/include/python{self.venv.python}/{self.locked.name}",
            "data": self.venv.prefix,
        }
        if parts[0] != data or scheme not in roots or not rest:
            self._refuse("no such installation scheme", "/".join(parts))
        target = "/".join((roots[scheme], *rest))
        if self.venv.owns(target):
            self._refuse("it would replace a part of the environment itself", "/".join(parts))
        top, _, below = target.removeprefix(f"{self.venv.site}/").partition("/")
        if below and top.endswith(".dist-info"):
            self._refuse("it would add to what is installed by name", "/".join(parts))
        return target, scheme == "scripts"

    def _entry(
        self, info: zipfile.ZipInfo, target: str, record: dict[str, str], *, is_script: bool
    ) -> Entry:
        sha256 = record.get(info.filename, "")
        if is_script:
            data = b"".join(self._chunks(info, sha256))
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
            chunks=lambda: self._chunks(info, sha256),
            sha256=sha256,
            owner=self.owner,
        )

    def _chunks(self, info: zipfile.ZipInfo, sha256: str) -> Iterator[bytes]:
        """Give the member's bytes; raise `ArchiveError` at the end if RECORD says otherwise."""
        actual = hashlib.sha256()
        size = 0
        try:
            for chunk in inflate(self.path, info):
                size += len(chunk)
                if size > info.file_size:
                    break
                actual.update(chunk)
                yield chunk
        except (IsalError, zipfile.BadZipFile) as error:  # type: ignore[misc] # a stub's mistake
            self._refuse(str(error), info.filename)
        if size != info.file_size or (sha256 and actual.hexdigest() != sha256):
            self._refuse("its bytes are not those that RECORD names", info.filename)

    def _scripts(self) -> list[Entry]:
        """Return the programs of `entry_points.txt`."""
        name = "entry_points.txt"
        if f"{self.dist_info}/{name}" not in self.archive.NameToInfo:
            return []
        try:
            points = list(parse_entrypoints(self._info_text(name)))
        except (configparser.Error, AssertionError) as error:  # it asserts the form
            self._refuse(f"its entry points cannot be read: {error}", name)
        entries = []
        for script, module, attribute, section in points:
            file, data = Script(script, module, attribute, section).generate(
                self.venv.interpreter, "posix"
            )
            target = f"{self.venv.prefix}/bin/{file}"
            if name_fault(file) or "/" in file or self.venv.owns(target):
                self._refuse("no name for a script", file)
            entries.append(self._text(target, data, mode=0o755))
        return entries

    def _info_text(self, name: str) -> str:
        """Return the text of a file of the `.dist-info`."""
        info = self.archive.NameToInfo.get(f"{self.dist_info}/{name}")
        if info is None:
            self._refuse(f"it has no {name}")
        if info.file_size > _MAX_TEXT:
            self._refuse(f"{info.file_size} bytes are too much for it", info.filename)
        return b"".join(self._chunks(info, "")).decode()

    def _check_places(self, entries: list[Entry]) -> None:
        seen: set[str] = set()
        for entry in entries:
            if entry.path in seen:
                self._refuse(f"two of its files go to one place: /{entry.path}")
            seen.add(entry.path)

    def _new_record(self, entries: list[Entry]) -> Entry:
        """Return RECORD as pip would write it, sorted; bytecode is not listed."""
        rows = []
        for entry in entries:
            path = os.path.relpath(f"/{entry.path}", f"/{self.venv.site}")
            rows.append(f"{_quote(path)},sha256={_base64(entry.sha256)},{entry.size}\n")
        own = f"{self.dist_info}/RECORD"
        rows.append(f"{own},,\n")
        return self._text(f"{self.venv.site}/{own}", "".join(sorted(rows)).encode())

    def _text(self, path: str, data: bytes, mode: int = 0o644) -> Entry:
        return Entry.text(path, data, mode=mode, owner=self.owner)


def _hex(encoded: str) -> str:
    """Return a RECORD hash (base64url without padding) as hex; "" if it is no sha256."""
    try:
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError:
        return ""
    return raw.hex() if len(raw) == hashlib.sha256().digest_size else ""


def _base64(sha256: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode()


def _quote(path: str) -> str:
    """Return `path` as a field of a CSV row, quoted as RECORD's readers expect."""
    return '"' + path.replace('"', '""') + '"' if _PIP_QUOTES & set(path) else path
