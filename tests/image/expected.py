"""What a test of an image compares it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchkiln.catalog import Base, Variant
    from torchkiln.lockfile import BaseLock, VariantLock
    from torchkiln.venv import Venv


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the image must be, by catalog and locks."""

    base: Base
    variant: Variant
    lock: VariantLock
    base_lock: BaseLock
    venv: Venv
