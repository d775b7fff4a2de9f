"""The wheels of a variant, and the same with one of them rebuilt: what a release of it would be."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from torchkiln.files import sha256_of
from torchkiln.lockfile import dump, variant_lock_path

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.lockfile import LockedWheel, VariantLock
    from torchkiln.store import Store

SMALL: Final = "packaging"
"""The light wheel that changes: pure Python, a dependency of others, 0.1 MB."""

TORCH: Final = "torch"
_MARK: Final = b"\n# rebuilt\n"
_LEVEL: Final = 1  # of zip: rebuilding torch's wheel is not what is measured


@dataclass(frozen=True, kw_only=True)
class WheelSet:
    """A lock whose wheels are in a store; `name` says what changed: `first`, `small`, `torch`."""

    name: str
    lock: VariantLock


def wheel_sets(lock: VariantLock, store: Store, work: Path) -> tuple[WheelSet, ...]:
    """Return the first set, then one with the light wheel rebuilt, then with torch rebuilt too."""
    small = _with_rebuilt(lock, SMALL, store, work)
    torch = _with_rebuilt(small, TORCH, store, work)
    return (
        WheelSet(name="first", lock=lock),
        WheelSet(name="small", lock=small),
        WheelSet(name="torch", lock=torch),
    )


def write_lock(lock: VariantLock, project: Path) -> None:
    """Make `lock` the variant's in a copy of the project."""
    variant_lock_path(project, lock.variant).write_text(dump(lock), encoding="utf-8")


def link_wheels(wheels: tuple[LockedWheel, ...], store: Store, folder: Path) -> None:
    """Put the wheels into `folder`, under their names, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for wheel in wheels:
        os.link(store.blob(wheel.sha256), folder / wheel.file)


def _with_rebuilt(lock: VariantLock, name: str, store: Store, work: Path) -> VariantLock:
    before = lock.wheel(name)
    path = work / before.file
    _rebuild(store.blob(before.sha256), path, f"{name}/__init__.py")
    with path.open("rb") as stream:
        sha256 = sha256_of(stream)
    after = replace(before, sha256=sha256, size=path.stat().st_size)
    store.adopt(path, sha256)
    wheels = tuple(after if wheel == before else wheel for wheel in lock.wheels)
    return replace(lock, wheels=wheels)


def _rebuild(source: Path, target: Path, changed: str) -> None:
    """Write the wheel again with one more comment in the module `changed`."""
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as new,
    ):
        for member in old.infolist():
            data = old.read(member)
            if member.filename == changed:
                data += _MARK
                record = hashlib.sha256(data).digest(), len(data)
            elif member.filename.endswith(".dist-info/RECORD"):
                data = _renewed(data, changed, *record)
            new.writestr(member, data, zipfile.ZIP_DEFLATED, _LEVEL)


def _renewed(record: bytes, changed: str, digest: bytes, size: int) -> bytes:
    """Return RECORD with another hash and size for one file; it is a wheel's last member."""
    encoded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in csv.reader(io.StringIO(record.decode())):
        writer.writerow([changed, f"sha256={encoded}", size] if row[:1] == [changed] else row)
    return stream.getvalue().encode()
