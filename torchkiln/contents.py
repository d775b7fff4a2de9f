"""Torchkiln's own files in an image: the last layer, which holds all that is not a package."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.config import CONSTRAINTS, HOME, PREFIX, WORKDIR
from torchkiln.layer import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.catalog import Base, Variant
    from torchkiln.lockfile import VariantLock

ROOTFS: Final = Path(__file__).parent / "rootfs"
"""Files that every image holds at the same path."""

_OWNER: Final = "torchkiln"
# Where container runtimes put the driver; ldconfig knows them from nvidia.conf.
_DRIVER_FOLDERS: Final = ("usr/local/nvidia/lib", "usr/local/nvidia/lib64")


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """A text file of the image at an absolute `path`; `text` is empty or ends with a newline."""

    path: str
    text: str
    executable: bool = False


def text_files(base: Base, variant: Variant, lock: VariantLock) -> tuple[ImageFile, ...]:
    """Return what lies in the image beside packages and smoke suite, for either engine."""
    files = [
        ImageFile(path=f"/{CONSTRAINTS}", text=constraints(lock)),
        ImageFile(path=f"/{HOME}/image.json", text=description(base, variant, lock)),
    ]
    for path in sorted(ROOTFS.rglob("*")):
        if path.is_file():
            # The bit in the file's mode: os.access() says no on a file system mounted noexec.
            executable = bool(path.stat().st_mode & stat.S_IXUSR)
            text = path.read_text(encoding="utf-8")
            name = f"/{path.relative_to(ROOTFS)}"
            files.append(ImageFile(path=name, text=text, executable=executable))
    if variant.cuda:
        places = "".join(f"/{folder}\n" for folder in _DRIVER_FOLDERS) + "/.singularity.d/libs\n"
        files.append(ImageFile(path="/etc/ld.so.conf.d/nvidia.conf", text=places))
    return tuple(files)


def own_entries(project: Path, base: Base, variant: Variant, lock: VariantLock) -> list[Entry]:
    """Return the entries of the last layer: the environment's skeleton, the suite, text files."""
    entries = [*_skeleton(base), *_smoke(project / "smoke")]
    for file in text_files(base, variant, lock):
        mode = 0o755 if file.executable else 0o644
        data = file.text.encode()
        entries.append(Entry.text(file.path.lstrip("/"), data, mode=mode, owner=_OWNER))
    if variant.cuda:
        entries += [Entry.directory(folder, owner=_OWNER) for folder in _DRIVER_FOLDERS]
    return [
        *entries,
        # Any uid may write here: a place to work, and a target for a mounted folder.
        Entry.directory(WORKDIR.lstrip("/"), 0o1777, owner=_OWNER),
        # Runtimes bind the host's file over this; a read-only root has no room for a new one.
        Entry.text("etc/resolv.conf", b"", owner=_OWNER),
    ]


def constraints(lock: VariantLock) -> str:
    """Return a pip constraints file: the image's own pins, so that no later install swaps torch."""
    return "".join(f"{wheel.name}=={wheel.version}\n" for wheel in lock.wheels)


def description(base: Base, variant: Variant, lock: VariantLock) -> str:
    """Return the JSON that the smoke suite compares the image with."""
    wheels = [{"name": wheel.name, "version": wheel.version} for wheel in lock.wheels]
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


def _smoke(root: Path) -> Iterator[Entry]:
    for path in sorted(root.glob("*.py")):
        yield Entry.text(f"{HOME}/smoke/{path.name}", path.read_bytes(), owner=_OWNER)


def _text(path: str, text: str) -> Entry:
    return Entry.text(path, text.encode(), owner=_OWNER)
