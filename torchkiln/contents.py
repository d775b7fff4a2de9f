"""Torchkiln's own files in an image: the last layer, which holds all that is not a package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from torchkiln.config import CONSTRAINTS, HOME, PREFIX
from torchkiln.layer import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.catalog import Base, Variant
    from torchkiln.lockfile import VariantLock

_OWNER = "torchkiln"
ROOTFS = Path(__file__).parent / "rootfs"
"""Files that every image holds at the same path."""


def own_entries(project: Path, base: Base, variant: Variant, lock: VariantLock) -> list[Entry]:
    """Return the environment's skeleton, the smoke suite and what describes the image."""
    entries = [*_folder(ROOTFS, ""), *_folder(project / "smoke", f"{HOME}/smoke/")]
    entries += _skeleton(base)
    entries += [
        _text(CONSTRAINTS, constraints(lock)),
        _text(f"{HOME}/image.json", description(base, variant, lock)),
        # Any uid may write here: a place to work, and a target for a mounted folder.
        Entry.directory("workspace", 0o1777, owner=_OWNER),
        # Runtimes bind the host's files over these; a read-only root has no room for new ones.
        _text("etc/hosts", ""),
        _text("etc/resolv.conf", ""),
    ]
    return entries + (_nvidia() if variant.cuda else [])


def constraints(lock: VariantLock) -> str:
    """Return a pip constraints file with the image's own pins (design: a later install must not
    swap torch)."""
    return "".join(f"{wheel.name}=={wheel.version}\n" for wheel in lock.wheels)


def description(base: Base, variant: Variant, lock: VariantLock) -> str:
    """Return the JSON that the smoke suite compares the image with."""
    wheels = [vars(wheel) for wheel in lock.wheels]
    body = {
        "variant": variant.id,
        "torch": variant.torch,
        "cuda": variant.cuda,
        "python": base.python,
        "lock": {"wheels": wheels},
    }
    return json.dumps(body, indent=2, sort_keys=True) + "\n"


def _skeleton(base: Base) -> list[Entry]:
    """Return what makes the prefix a virtual environment (PEP 405)."""
    python = f"/usr/bin/python{base.python}"
    config = f"home = /usr/bin\ninclude-system-site-packages = false\nexecutable = {python}\n"
    return [
        _text(f"{PREFIX}/pyvenv.cfg", config),
        Entry.link(f"{PREFIX}/bin/python", python, owner=_OWNER),
        Entry.link(f"{PREFIX}/bin/python3", "python", owner=_OWNER),
        Entry.link(f"{PREFIX}/bin/python{base.python}", "python", owner=_OWNER),
    ]


def _nvidia() -> list[Entry]:
    """Return the places where container runtimes put the driver, known to ldconfig."""
    folders = ("usr/local/nvidia/lib", "usr/local/nvidia/lib64")
    config = "".join(f"/{folder}\n" for folder in folders) + "/.singularity.d/libs\n"
    places = [Entry.directory(folder, owner=_OWNER) for folder in folders]
    return [*places, _text("etc/ld.so.conf.d/nvidia.conf", config)]


def _folder(root: Path, prefix: str) -> Iterator[Entry]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            name = prefix + str(path.relative_to(root))
            yield Entry.text(name, path.read_bytes(), mode=mode, owner=_OWNER)


def _text(path: str, text: str) -> Entry:
    return Entry.text(path, text.encode(), owner=_OWNER)
