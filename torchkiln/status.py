"""What there is of each variant: its lock, its image, and what it needs of a machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from torchkiln import drivers, gpus, pipeline
from torchkiln.engine.kiln import built_before
from torchkiln.errors import LockError
from torchkiln.lockfile import variant_lock_path

if TYPE_CHECKING:
    from torchkiln.catalog import Variant
    from torchkiln.image import Image
    from torchkiln.lockfile import Drifted
    from torchkiln.pipeline import Project

State = Literal["not locked", "stale lock", "locked", "built"]


@dataclass(frozen=True, kw_only=True)
class VariantStatus:
    """A variant with `image` where the store has it, and `wheels`, the bytes of its lock.

    `drifted` are the packages of the image's base that are not the locked ones.
    """

    variant: Variant
    python: str
    state: State
    wheels: int | None
    image: Image | None
    drifted: tuple[Drifted, ...] = ()

    @property
    def driver(self) -> str:
        """Return the oldest driver on Linux, "" where none is needed."""
        return drivers.floor(self.variant.cuda) if self.variant.cuda else ""

    @property
    def covers(self) -> list[str]:
        """Return which of the familiar GPUs it has code for."""
        if self.variant.cuda is None:
            return []
        archs = gpus.architectures(self.variant.torch, self.variant.cuda)
        return [
            model.label
            for model in gpus.MODELS
            if model.label in gpus.FAMILIAR and gpus.runs_on(archs, model.capability)
        ]


def status(project: Project) -> tuple[VariantStatus, ...]:
    """Return what there is of each variant, in the catalog's order."""
    return tuple(_status(project, variant) for variant in project.catalog.variants)


def _status(project: Project, variant: Variant) -> VariantStatus:
    state: State = "not locked"
    wheels, image = None, None
    drifted: tuple[Drifted, ...] = ()
    if variant_lock_path(project.root, variant.id).exists():
        try:
            job = pipeline.job(project, variant)
        except LockError:
            state = "stale lock"
        else:
            wheels = sum(wheel.size for wheel in job.lock.wheels)
            image = built_before(job)
            state = "built" if image else "locked"
            drifted = job.base_lock.drifted if image else ()
    return VariantStatus(
        variant=variant,
        python=project.catalog.base.python,
        state=state,
        wheels=wheels,
        image=image,
        drifted=drifted,
    )


def as_json(found: tuple[VariantStatus, ...]) -> list[dict[str, Any]]:
    """Return the table as `list --json` prints it; sizes in bytes."""
    return [
        {
            "id": one.variant.id,
            "flag": one.variant.flag,
            "torch": one.variant.torch,
            "cuda": one.variant.cuda,
            "python": one.python,
            "driver": one.driver or None,
            "driver_windows": drivers.floor(one.variant.cuda, "windows")
            if one.variant.cuda
            else None,
            "compute_capabilities": [
                gpus.shown(arch)
                for arch in gpus.architectures(one.variant.torch, one.variant.cuda or "")
            ],
            "gpus": one.covers,
            "ended": one.variant.ended,
            "replacement": one.variant.replacement,
            "state": one.state,
            "wheels_size": one.wheels,
            "digest": f"sha256:{one.image.digest}" if one.image else None,
            "size": one.image.size if one.image else None,
            "drifted": [asdict(package) for package in one.drifted],
        }
        for one in found
    ]
