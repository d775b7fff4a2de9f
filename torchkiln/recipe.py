"""A hash of the code that makes something, as part of the key under which it is kept.

A format number that people must remember to raise would be forgotten once, and the store would then
give old bytes for new code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def recipe(*modules: ModuleType) -> str:
    """Return the sha256 (hex) of the modules' sources, in the given order."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(hashlib.sha256(Path(str(module.__file__)).read_bytes()).digest())
    return digest.hexdigest()
