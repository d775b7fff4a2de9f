"""Which wheels share a layer: a pure function of the lock, so that variants share what they can."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torchkiln.lockfile import LockedWheel, VariantLock

HEAVY: Final = 20_000_000
"""A wheel of this size (bytes, compressed) and over has a layer of its own."""

MAX_LAYERS: Final = 40
"""Docker's classic store ends at 125 layers, BuildKit's mounts at 70; others will add some."""

_OTHERS: Final = 3  # the base, the light wheels together, Torchkiln's own files


@dataclass(frozen=True, kw_only=True)
class WheelGroup:
    """The wheels of one layer."""

    name: str
    wheels: tuple[LockedWheel, ...]

    @property
    def folder(self) -> str:
        """Return the name as folders and a Dockerfile's stages can have it."""
        return re.sub(r"[^a-z0-9._-]", "-", self.name)


def plan_layers(lock: VariantLock) -> tuple[WheelGroup, ...]:
    """Return the layers of wheels in the order of the image: heavy ones by name, then the rest."""
    by_size = sorted(lock.wheels, key=lambda wheel: (-wheel.size, wheel.name))
    heavy = {wheel.name for wheel in by_size[: MAX_LAYERS - _OTHERS] if wheel.size >= HEAVY}
    groups = [
        WheelGroup(name=f"{wheel.name}-{wheel.version}", wheels=(wheel,))
        for wheel in lock.wheels
        if wheel.name in heavy
    ]
    light = tuple(wheel for wheel in lock.wheels if wheel.name not in heavy)
    return (*groups, WheelGroup(name="wheels", wheels=light)) if light else tuple(groups)
