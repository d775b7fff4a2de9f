"""What an engine builds from, and which layers of it the store has already.

Each layer of wheels is keyed by what it is made from and found again in the store's records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import installer

from torchkiln import archive, bytecode, compile_modules, layer_records, wheelfile
from torchkiln import layer as layers
from torchkiln import venv as venvs
from torchkiln import wheel as wheels
from torchkiln.base import base_key
from torchkiln.config import DRIFTED, venv
from torchkiln.errors import LockError
from torchkiln.lockfile import digest
from torchkiln.plan import plan_layers
from torchkiln.recipe import recipe

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.catalog import Base, Variant
    from torchkiln.layer import Layer
    from torchkiln.lockfile import BaseLock, LockedDeb, LockedWheel, VariantLock
    from torchkiln.plan import WheelGroup
    from torchkiln.store import Store
    from torchkiln.venv import Venv

BASE_GROWTH: Final = 10
"""The base's layer, its tree and dpkg's working copy are at most this many times its packages."""

LAYER_GROWTH: Final = 1.2
"""A layer of wheels has at most this many times their size, compressed ..."""

TREE_GROWTH: Final = 4
"""... and this many times unpacked: 2.1 for CUDA 11.7, 3.7 for the CPU."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that an engine needs; `project` is the folder with `smoke/`."""

    project: Path
    store: Store
    base: Base
    variant: Variant
    lock: VariantLock
    base_lock: BaseLock

    @property
    def tag(self) -> str:
        """Return the tag of the image: another one where its base has drifted from the lock."""
        return f"{self.variant.id}{DRIFTED}" if self.base_lock.drifted else self.variant.id

    @property
    def venv(self) -> Venv:
        """Return the environment that the image will hold."""
        return venv(self.base)

    @property
    def python_package(self) -> str:
        """Return the version of the Debian package that compiles bytecode."""
        name = f"python{self.base.python}-minimal"
        version = next((deb.version for deb in self.base_lock.debs if deb.name == name), "")
        if not version:
            what = f"the lock of the base has no package `{name}`"
            raise LockError(what, hint="./kiln lock --base")
        return version


def space_needed(job: Job) -> int:
    """Return an upper estimate of the bytes that the build and a run of the image will write."""
    size = sum(wheel.size for group in missing_layers(job) for wheel in group.wheels)
    return int(size * (LAYER_GROWTH + TREE_GROWTH))


def missing_layers(job: Job) -> list[WheelGroup]:
    """Return the layers of wheels that the store lacks, in the order of the image."""
    return [
        group
        for group in plan_layers(job.lock)
        if known_layer(job.store, layer_key(job, group)) is None
    ]


def needed_inputs(job: Job) -> tuple[list[LockedWheel], list[LockedDeb]]:
    """Return the wheels and packages that layers are to be made from: none where all are there."""
    wheels = [wheel for group in missing_layers(job) for wheel in group.wheels]
    has_base = known_layer(job.store, base_key(job.base_lock))
    return wheels, [] if has_base else list(job.base_lock.debs)


def known_layer(store: Store, key: str) -> Layer | None:
    """Return the layer that was made under `key`, if its blob is still there."""
    layer = layer_records.read(store, key)
    return layer if layer and store.has(layer.digest, layer.size) else None


def layer_key(job: Job, group: WheelGroup) -> str:
    """Return the key of a layer of wheels: a hash of all that it is made from."""
    environment = job.venv
    return digest(
        [
            recipe(archive, bytecode, compile_modules, layers, venvs, wheels, wheelfile),
            layers.CODEC,
            environment.prefix,
            environment.python,
            job.python_package,
            installer.__version__,
            [wheel.sha256 for wheel in group.wheels],
        ]
    )
