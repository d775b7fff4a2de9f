"""The CI matrix: stages, and for each image the runner, the disk and the driver that it needs.

The workflows in `.github/workflows` are rendered from it; `ci-matrix --json` hands it to any other
CI system.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from torchkiln import drivers
from torchkiln.engine.job import BASE_GROWTH, LAYER_GROWTH, TREE_GROWTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchkiln.catalog import Variant
    from torchkiln.lockfile import BaseLock, VariantLock

RUNNER: Final = "ubuntu-24.04"
RUNNER_DISK: Final = 14_000_000_000
"""Bytes that GitHub promises on its runners; more is there once unused toolchains are removed."""

MAC_RUNNER: Final = "macos-15"
GPU_RUNNER: Final = ("self-hosted", "linux", "x64", "gpu")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image in CI.

    `disk` is an upper estimate in bytes; `make_room` is whether a hosted runner must be cleared for
    it; `driver` is the oldest NVIDIA driver on which `gpu_runner` can try it, both empty for a CPU.
    """

    id: str
    flag: str
    runner: str
    disk: int
    make_room: bool
    driver: str
    gpu_runner: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The stages in their order: the base, then the variants, which all stand on it."""

    base: tuple[Row, ...]
    variants: tuple[Row, ...]


def matrix(
    variants: Sequence[Variant], locks: Mapping[str, VariantLock], base_lock: BaseLock
) -> Matrix:
    """Return the matrix of `variants`; `locks` has the lock of each."""
    debs = sum(deb.size for deb in base_lock.debs)
    base = Row(
        id="base",
        flag="--base",
        runner=RUNNER,
        disk=debs * BASE_GROWTH,
        make_room=False,
        driver="",
        gpu_runner=(),
    )
    rows = tuple(_row(variant, locks[variant.id], base.disk) for variant in variants)
    return Matrix(base=(base,), variants=rows)


def _row(variant: Variant, lock: VariantLock, base_disk: int) -> Row:
    wheels = sum(wheel.size for wheel in lock.wheels)
    disk = base_disk + int(wheels * (1 + LAYER_GROWTH + TREE_GROWTH))
    return Row(
        id=variant.id,
        flag=variant.flag,
        runner=RUNNER,
        disk=disk,
        make_room=disk > RUNNER_DISK,
        driver=drivers.floor(variant.cuda) if variant.cuda else "",
        gpu_runner=GPU_RUNNER if variant.cuda else (),
    )


def as_json(found: Matrix) -> dict[str, Any]:
    """Return the matrix as GitHub's `strategy.matrix` takes it: `{"include": [...]}` by stage."""
    return {
        "base": {"include": [asdict(row) for row in found.base]},
        "variants": {"include": [asdict(row) for row in found.variants]},
        "gpu": {"include": [asdict(row) for row in found.variants if row.gpu_runner]},
    }
