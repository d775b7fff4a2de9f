"""A wheel that is looked through before anything is made of it.

Follows the binary distribution format (packaging.python.org/specifications): one `.dist-info`,
RECORD with a sha256 for each file. The wheel's own sha256 was checked when it was fetched; RECORD
is checked while the bytes are read.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import struct
import unicodedata
import zipfile
from email.parser import HeaderParser
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, NoReturn

from installer.records import InvalidRecordEntry, parse_record_file
from isal.igzip_lib import IsalError
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from torchkiln.archive import LOCAL_HEADER, inflate, member_fault
from torchkiln.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torchkiln.lockfile import LockedWheel

_MAX_UNPACKED: Final = 32 << 30
_MAX_RATIO: Final = 200  # torch's wheels unpack to 4 times their size, text at most to 20 times
_SMALL: Final = 1 << 20  # bytes that are no bomb at any ratio
_MAX_TEXT: Final = 64 << 20  # bytes of a file that is read whole; torch's RECORD has 1.2 MB
# A RECORD of our own replaces the wheel's, which a signature (the other two) would be about.
_UNLISTED: Final = ("RECORD", "RECORD.jws", "RECORD.p7s")
# What zipfile raises for a broken file; bad UTF-8, names and versions are ValueErrors.
BROKEN: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    OverflowError,
    ValueError,
    struct.error,
)


class WheelFile:
    """An open wheel that is what its name says; `record` is the sha256 (hex) by member.

    Anything that no honest wheel has raises `ArchiveError` with the names of wheel and member.
    `replaced` are the members that the installation makes anew.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, locked: LockedWheel) -> None:
        self.path = path
        self.locked = locked
        self._archive = archive
        # Not info.is_dir(): that raises IndexError for a member without a name.
        self.members = [info for info in archive.infolist() if not info.filename.endswith("/")]
        self._check_members()
        self.dist_info = self._find_dist_info()
        self.replaced = {f"{self.dist_info}/{name}" for name in _UNLISTED}
        self._check_identity()
        self.record = self._record()

    def refuse(self, why: str, member: str = "") -> NoReturn:
        """Raise the error that says why this wheel, or a member of it, is refused."""
        where = f" in `{member}`" if member else ""
        what = f"refused wheel{where}: {self.locked.file}"
        raise ArchiveError(what, why)

    def chunks(self, info: zipfile.ZipInfo, sha256: str) -> Iterator[bytes]:
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
            self.refuse(str(error), info.filename)
        if size != info.file_size or (sha256 and actual.hexdigest() != sha256):
            self.refuse("its bytes are not those that RECORD names", info.filename)

    def info_text(self, name: str) -> str:
        """Return the text of a file of the `.dist-info`."""
        info = self._archive.NameToInfo.get(f"{self.dist_info}/{name}")
        if info is None:
            self.refuse(f"it has no {name}")
        if info.file_size > _MAX_TEXT:
            self.refuse(f"{info.file_size} bytes are too much for it", info.filename)
        return b"".join(self.chunks(info, "")).decode()

    def has_info(self, name: str) -> bool:
        """Tell whether the `.dist-info` holds a file of this name."""
        return f"{self.dist_info}/{name}" in self._archive.NameToInfo

    def _check_members(self) -> None:
        seen: set[str] = set()
        for info in self.members:
            name = info.filename
            if fault := member_fault(info):
                self.refuse(fault, name)
            folded = unicodedata.normalize("NFC", name)
            if folded in seen:
                self.refuse("it holds this name twice", name)
            seen.add(folded)
        packed = self.path.stat().st_size
        unpacked = sum(info.file_size for info in self.members)
        if unpacked > _MAX_UNPACKED or unpacked > max(packed * _MAX_RATIO, _SMALL):
            self.refuse(f"{packed} bytes would unpack to {unpacked}")
        # Overlapping members are how a small zip unpacks to petabytes (Fifield, WOOT 2019).
        end = 0
        for info in sorted(self.members, key=lambda info: info.header_offset):
            if info.header_offset < end:
                self.refuse("its members overlap", info.filename)
            end = info.header_offset + LOCAL_HEADER + info.compress_size
            if end > packed:
                self.refuse("it would end after the end of the file", info.filename)

    def _find_dist_info(self) -> str:
        tops = {PurePosixPath(info.filename).parts[0] for info in self.members}
        found = sorted(top for top in tops if top.endswith(".dist-info"))
        if len(found) != 1:
            self.refuse(f"it must hold one .dist-info, it holds {len(found)}")
        return found[0]

    def _check_identity(self) -> None:
        name, version, _, _ = parse_wheel_filename(self.locked.file)
        if (name, version) != (canonicalize_name(self.locked.name), Version(self.locked.version)):
            self.refuse(f"it is locked as {self.locked.name} {self.locked.version}")
        metadata = HeaderParser().parsestr(self.info_text("METADATA"))
        says_name, says_version = str(metadata["Name"]), str(metadata["Version"])
        if canonicalize_name(says_name) != name or Version(says_version) != version:
            self.refuse(f"its METADATA says it is {says_name} {says_version}")
        # importlib.metadata finds a distribution by the name of this folder.
        if canonicalize_name(self.dist_info.removesuffix(".dist-info").rpartition("-")[0]) != name:
            self.refuse(f"its .dist-info is another's: {self.dist_info}")

    def _record(self) -> dict[str, str]:
        """Return the sha256 (hex) that RECORD gives for each member."""
        lines = io.StringIO(self.info_text("RECORD"), newline="")
        try:
            rows = list(parse_record_file(lines))
        except (csv.Error, InvalidRecordEntry) as error:
            self.refuse(f"RECORD cannot be read: {error}")
        names = {info.filename for info in self.members}
        hashes: dict[str, str] = {}
        for path, value, _ in rows:
            algorithm, _, encoded = value.partition("=")
            if path in hashes:
                self.refuse("RECORD has two rows for it", path)
            if path not in names:
                self.refuse("RECORD names it, the wheel does not hold it", path)
            hashes[path] = _hex(encoded) if algorithm == "sha256" else ""
        for name in sorted(names - self.replaced):
            if not hashes.get(name):
                self.refuse("RECORD has no sha256 for it", name)
        return hashes


def _hex(encoded: str) -> str:
    """Return a RECORD hash (base64url without padding) as hex; "" if it is no sha256."""
    try:
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError:
        return ""
    return raw.hex() if len(raw) == hashlib.sha256().digest_size else ""
