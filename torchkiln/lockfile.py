"""The locks: what they hold, how they are written, and when they are refused.

`envs/<variant>/lock.json` names each wheel, `envs/debian-<release>.lock.json` each .deb, and
`envs/<variant>/kernel.lock.json` what a kernel for Jupyter needs beside the former.
PEP 751's pylock.toml was considered for the first and cannot serve: it demands a URL or a path
for each wheel, and a lock that names a registry's host breaks behind every mirror.

All are canonical JSON (sorted keys, two spaces). `inputs` is the sha256 of what the lock was
resolved from; `checksum` is the sha256 of everything else in the file, so that a lock edited by
hand is told from one that `lock` wrote.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from torchkiln.errors import LockError
from torchkiln.lock_form import deb_faults, wheel_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torchkiln.catalog import Base, Catalog, Variant

FORMAT: Final = 1
"""Raised when a change of this module makes older locks unreadable."""

KERNEL: Final = ("ipykernel",)
"""What an environment has beside its variant's wheels: a kernel for Jupyter."""


DEFAULT_SOURCE: Final = "default"
"""The package index that the user's pip is configured for."""

_CATALOG: Final = "`images/variants.yaml`"


@dataclass(frozen=True, kw_only=True, order=True)
class LockedWheel:
    """One wheel: `size` in bytes, `source` is `default` or the name of an index of the catalog."""

    name: str
    version: str
    file: str
    size: int
    sha256: str
    source: str = DEFAULT_SOURCE


@dataclass(frozen=True, kw_only=True, order=True)
class LockedDeb:
    """One binary package: `filename` is its path under `archive` (`debian`, `debian-security`)."""

    name: str
    version: str
    architecture: str
    archive: str
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, order=True)
class Drifted:
    """A package of the base whose locked version no mirror has: what is there in its place.

    `locked` and `present` are versions, "" where the package is not in that base.
    """

    name: str
    locked: str
    present: str

    def __str__(self) -> str:
        if not self.locked:
            return f"{self.name} {self.present} (new)"
        if self.locked == self.present:
            return f"{self.name} {self.locked} (rebuilt)"
        return f"{self.name} {self.locked} -> {self.present or 'gone'}"


@dataclass(frozen=True, kw_only=True)
class VariantLock:
    """The wheels of a variant, sorted by name.

    `platform` is what they were resolved for, by uv's name (`x86_64-manylinux_2_36`).
    """

    variant: str
    inputs: str
    python: str
    wheels: tuple[LockedWheel, ...]
    platform: str = ""

    def wheel(self, name: str) -> LockedWheel:
        """Return the wheel of the distribution `name` (normalised), or raise `KeyError`."""
        for wheel in self.wheels:
            if wheel.name == name:
                return wheel
        raise KeyError(name)


@dataclass(frozen=True, kw_only=True)
class BaseLock:
    """The packages of the base, sorted by name.

    `date` (RFC 3339, UTC) is the newest date of the signed indexes that the lock was taken from.
    It becomes the `created` of each image, which so depends on the lock and on no clock.
    `drifted` is empty in a lock of a project: see `torchkiln.drift`.
    """

    release: str
    inputs: str
    date: str
    debs: tuple[LockedDeb, ...]
    drifted: tuple[Drifted, ...] = ()

    @property
    def drift(self) -> str:
        """Return what has drifted in one line, for people and for the image's label."""
        return ", ".join(map(str, self.drifted))


def canonical(value: object) -> bytes:
    """Return `value` as JSON that is the same bytes on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """Return the sha256 (hex) of `value` as canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def variant_inputs(catalog: Catalog, variant: Variant) -> str:
    """Return the hash of everything in the catalog that the lock of `variant` depends on."""
    base = {"release": catalog.base.release, "python": catalog.base.python}
    indexes = {name: url for name, url in catalog.indexes.items() if name == variant.index}
    asked = asdict(variant)
    for said in ("ended", "replacement"):  # to people; nothing is resolved from it
        del asked[said]
    return digest([FORMAT, base, indexes, asked])


def base_inputs(base: Base) -> str:
    """Return the hash of everything in the catalog that the lock of the base depends on."""
    return digest([FORMAT, asdict(base)])


def kernel_inputs(lock: VariantLock) -> str:
    """Return the hash of what the lock of the kernel depends on: the versions that are there."""
    there = {wheel.name: wheel.version for wheel in lock.wheels}
    return digest([FORMAT, KERNEL, lock.python, lock.platform, there])


def variant_lock_path(root: Path, variant: str) -> Path:
    """Return where the lock of `variant` lies in the project at `root`."""
    return root / "envs" / variant / "lock.json"


def kernel_lock_path(root: Path, variant: str) -> Path:
    """Return where the lock of the kernel beside `variant` lies in the project at `root`."""
    return root / "envs" / variant / "kernel.lock.json"


def base_lock_path(root: Path, release: str) -> Path:
    """Return where the lock of the base lies in the project at `root`."""
    return root / "envs" / f"debian-{release}.lock.json"


def lock_hash(path: Path) -> str:
    """Return the sha256 (hex) of a lock's file: one that was edited or is stale has one too."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lock_name(path: Path) -> str:
    """Return what a lock's file is of, by its place: a variant's id, or `debian-<release>`."""
    return path.parent.name if path.name == "lock.json" else path.name.removesuffix(".lock.json")


def dump(lock: VariantLock | BaseLock) -> str:
    """Return the text of the lock's file.

    What an index told and a lock may not say raises `LockError`, all of it at once.
    """
    body: dict[str, Any] = json.loads(canonical(asdict(lock)))
    if not body.get("drifted"):
        body.pop("drifted", None)
    name, faults = (
        (lock.variant, wheel_faults(body))
        if isinstance(lock, VariantLock)
        else (lock.release, deb_faults(body))
    )
    if faults:
        what = f"invalid lock of `{name}`: its sources tell what a lock cannot hold"
        raise LockError(what, "\n".join(faults))
    body["format"] = FORMAT
    body["checksum"] = digest(body)
    return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_variant_lock(root: Path, catalog: Catalog, variant: Variant) -> VariantLock:
    """Return the lock of `variant`; a missing, stale or edited one raises `LockError`."""
    path = variant_lock_path(root, variant.id)
    return _read_wheels(root, path, variant_inputs(catalog, variant), variant, _CATALOG)


def read_environment_lock(root: Path, catalog: Catalog, variant: Variant) -> VariantLock:
    """Return what an environment of `variant` has: its wheels and the kernel's, as one lock.

    A missing, stale or edited one of the two raises `LockError`.
    """
    lock = read_variant_lock(root, catalog, variant)
    path = kernel_lock_path(root, variant.id)
    kernel = _read_wheels(root, path, kernel_inputs(lock), variant, f"the lock of `{variant.id}`")
    return replace(lock, wheels=tuple(sorted((*lock.wheels, *kernel.wheels))))


def read_base_lock(root: Path, base: Base) -> BaseLock:
    """Return the lock of the base; a missing, stale or edited one raises `LockError`."""
    return read_base_lock_at(root, base_lock_path(root, base.release), base)


def read_base_lock_at(root: Path, path: Path, base: Base) -> BaseLock:
    """Return the lock of `base` that lies at `path`, under `root`; as `read_base_lock` does."""
    body = _read(
        root, path, base_inputs(base), renew="lock --base", source=_CATALOG, faults=deb_faults
    )
    debs = tuple(LockedDeb(**entry) for entry in body.pop("debs"))
    drifted = tuple(Drifted(**entry) for entry in body.pop("drifted", ()))
    if body["release"] != base.release:
        what = f"the lock is of another release: {path.relative_to(root)}"
        why = f"expected: {base.release}\nactual: {body['release']}"
        raise LockError(what, why, "./kiln lock --base")
    return BaseLock(debs=debs, drifted=drifted, **body)


def _read_wheels(root: Path, path: Path, inputs: str, variant: Variant, source: str) -> VariantLock:
    renew = f"lock {variant.flag}"
    body = _read(root, path, inputs, renew=renew, source=source, faults=wheel_faults)
    wheels = tuple(LockedWheel(**entry) for entry in body.pop("wheels"))
    return VariantLock(wheels=wheels, **body)


def _read(
    root: Path,
    path: Path,
    inputs: str,
    *,
    renew: str,
    source: str,
    faults: Callable[[object], list[str]],
) -> dict[str, Any]:
    """Return the lock's fields without `format` and `checksum`, checked.

    `source` is what the lock was made from, to say so where it is stale. `faults` tells what has
    not its form.
    """
    shown = path.relative_to(root)
    hint = f"./kiln {renew}"
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        checksum = body.pop("checksum")
        actual = digest(body)
        stale = body.pop("format") != FORMAT or body["inputs"] != inputs
    except FileNotFoundError:
        what = f"there is no lock: {shown}"
        raise LockError(what, hint=hint) from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        what = f"the lock cannot be read: {shown}"
        raise LockError(what, str(error), hint) from None
    if checksum != actual:
        what = f"the lock was changed by hand, its checksum does not fit: {shown}"
        raise LockError(what, hint=hint)
    if stale:
        what = f"the lock is older than {source}: {shown}"
        raise LockError(what, hint=hint)
    if found := faults(body):
        what = f"invalid lock: {shown}"
        raise LockError(what, "\n".join(found), hint)
    return body
