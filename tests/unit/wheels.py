"""Tiny real wheels, honest ones and hostile ones, and what a layer of them holds."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import random
import struct
import tarfile
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torchkiln.archive import open_gzip
from torchkiln.errors import ArchiveError
from torchkiln.layer import write_layer
from torchkiln.lockfile import LockedWheel
from torchkiln.venv import Venv
from torchkiln.wheel import read_wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torchkiln.layer import Layer
    from torchkiln.wheel import Wheel

VENV = Venv(prefix="opt/venv", python="3.11")
SITE = "opt/venv/lib/python3.11/site-packages"
CODE = b"def main():\n    return 0\n"


@dataclass
class Draft:
    """A wheel before it is packed; `members` are in the order of the zip, RECORD is made last.

    `rows` replaces RECORD's rows by path (None: no row), `modes` are Unix modes by name.
    """

    name: str = "demo"
    version: str = "1.0"
    members: dict[str, bytes] = field(default_factory=lambda: {"demo/__init__.py": CODE})
    modes: dict[str, int] = field(default_factory=dict)
    rows: dict[str, str | None] = field(default_factory=dict)
    metadata: str | None = None
    entry_points: str | None = None
    file: str = ""

    def __post_init__(self) -> None:
        self.file = self.file or f"{self.name}-{self.version}-py3-none-any.whl"

    @property
    def info(self) -> str:
        """Return the name of the `.dist-info`."""
        return f"{self.name}-{self.version}.dist-info"

    def all_members(self) -> dict[str, bytes]:
        """Return every member with its bytes."""
        about = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        members = dict(self.members)
        members.setdefault(f"{self.info}/METADATA", (self.metadata or about).encode())
        members.setdefault(f"{self.info}/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        if self.entry_points is not None:
            members.setdefault(f"{self.info}/entry_points.txt", self.entry_points.encode())
        rows = {name: row(name, data) for name, data in members.items()} | self.rows
        record = f"{self.info}/RECORD"
        text = "".join(line for line in rows.values() if line is not None) + f"{record},,\n"
        members.setdefault(record, text.encode())
        return members

    def pack(
        self,
        *,
        compression: int = zipfile.ZIP_DEFLATED,
        level: int = 6,
        order: Iterable[int] = (),
        extra: Iterable[tuple[str, bytes]] = (),
    ) -> bytes:
        """Return the wheel; `order` permutes its members, `extra` come last, also twice."""
        pairs = list(self.all_members().items())
        pairs = [pairs[index] for index in order] or pairs
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", compression, compresslevel=level) as archive:
            for name, data in [*pairs, *extra]:
                member = zipfile.ZipInfo("x")
                member.filename = name  # ZipInfo() itself would cut a name at a NUL
                member.compress_type = compression
                member.external_attr = self.modes.get(name, 0o100644) << 16
                archive.NameToInfo.pop(name, None)  # or zipfile warns of names used twice
                archive.writestr(member, data)
        return stream.getvalue()

    def locked(self, data: bytes) -> LockedWheel:
        """Return the lock's entry for the packed wheel."""
        sha256 = hashlib.sha256(data).hexdigest()
        return LockedWheel(
            name=self.name.replace("_", "-").lower(),
            version=self.version,
            file=self.file,
            size=len(data),
            sha256=sha256,
        )

    def read(self, folder: Path, data: bytes | None = None) -> Wheel:
        """Write the wheel (or `data` under its name) to `folder` and look through it."""
        data = self.pack() if data is None else data
        path = folder / self.file
        path.write_bytes(data)
        return read_wheel(path, self.locked(data), VENV)


def row(name: str, data: bytes) -> str:
    """Return the row of RECORD for a member."""
    encoded = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow((name, f"sha256={encoded}", len(data)))
    return stream.getvalue()


def patched(data: bytes, name: str, **fields: int) -> bytes:
    """Return the zip with fields of one member's central header set (APPNOTE.TXT 4.3.12)."""
    places = {"flags": ("<H", 8), "packed": ("<I", 20), "size": ("<I", 24), "offset": ("<I", 42)}
    start = data.index(b"PK\1\2")
    while data[start + 46 :][: len(name)] != name.encode():
        start = data.index(b"PK\1\2", start + 1)
    changed = bytearray(data)
    for field_name, value in fields.items():
        form, offset = places[field_name]
        struct.pack_into(form, changed, start + offset, value)
    return bytes(changed)


def outcome(work: Callable[[], object]) -> str:
    """Return the text of the `ArchiveError` that `work` ends with, "" if it ends well."""
    try:
        work()
    except ArchiveError as error:
        return str(error)
    return ""


def chance(seed: int) -> random.Random:
    """Return a source of the same numbers each time."""
    return random.Random(seed)  # noqa: S311 - nothing is kept secret with it


def layer_of(folder: Path, *wheels: Wheel) -> tuple[Layer, Path]:
    """Write the wheels' layer to `folder`; return it and its file."""
    path = folder / "layer"
    layer = write_layer(path, "layer", [entry for wheel in wheels for entry in wheel.entries])
    return layer, path


def listing(path: Path) -> dict[str, tarfile.TarInfo]:
    """Return the members of a layer in their order."""
    with open_gzip(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        return {member.name: member for member in archive}


def contents(path: Path) -> dict[str, bytes]:
    """Return the files of a layer with their bytes."""
    found = {}
    with open_gzip(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            # extractfile() of a link raises StreamError here
            if member.isfile() and (content := archive.extractfile(member)):
                found[member.name] = content.read()
    return found
