"""Torchkiln's own files in an image: the last layer, which holds all that is not a package."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln import companions
from torchkiln.config import CONSTRAINTS, HOME, PREFIX, WORKDIR
from torchkiln.gpus import without_code
from torchkiln.layer import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torchkiln.catalog import Base, Variant
    from torchkiln.lockfile import VariantLock

ROOTFS: Final = Path(__file__).parent / "rootfs"
"""Files that every image holds at the same path."""

BESIDE_DOCTOR: Final = (
    "__init__.py",
    "companions.py",
    "digests.py",
    "drivers.py",
    "errors.py",
    "gpus.py",
    "host.py",
    "machine.py",
    "pipconf.py",
    "registry/__init__.py",
    "registry/credentials.py",
    "registry/reference.py",
    "registry/tokens.py",
    "releases.py",
)
"""The modules of this package that those in doctor/ import: they run in images too."""

_OWNER: Final = "torchkiln"
_HEAD: Final = """\
# Torchkiln's pins: a later `pip install` or `uv pip install` keeps torch {torch} and what is locked
# with it. To lift them for one command:
#   PIP_CONSTRAINT=/dev/null pip install ...
#   UV_CONSTRAINT=/dev/null uv pip install ...
"""
_ABSENT: Final = """
# Not installed. Each is built for one torch, and what does not fit torch {torch} fails at import.
"""
_LABELLED: Final = """\
# +{label} is on the PyTorch index: --extra-index-url https://download.pytorch.org/whl/{label}
"""
_NONE: Final = "# No {name} fits. The version below does not exist: installers refuse it."
# Where container runtimes put the driver; ldconfig knows them from nvidia.conf.
_DRIVER_FOLDERS: Final = ("/usr/local/nvidia/lib", "/usr/local/nvidia/lib64")


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """A text file of the image at an absolute `path`; `text` is empty or ends with a newline."""

    path: str
    text: str
    executable: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """A folder of the image at an absolute `path`."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True, kw_only=True)
class ImageLink:
    """A symbolic link of the image at an absolute `path`."""

    path: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What lies in an image beside packages and smoke suite, for either engine."""

    files: tuple[ImageFile, ...]
    folders: tuple[ImageFolder, ...]
    links: tuple[ImageLink, ...]


def image_contents(base: Base, variant: Variant, lock: VariantLock) -> Contents:
    """Return what lies in the image of `variant` beside packages and smoke suite."""
    python = f"/usr/bin/python{base.python}"
    programs = f"/{PREFIX}/bin"
    files = [
        # This and the links make the prefix a virtual environment (PEP 405).
        ImageFile(
            path=f"/{PREFIX}/pyvenv.cfg",
            text=f"home = /usr/bin\ninclude-system-site-packages = false\nexecutable = {python}\n",
        ),
        ImageFile(path=f"/{CONSTRAINTS}", text=constraints(variant, lock)),
        ImageFile(path=f"/{HOME}/image.json", text=description(base, variant, lock)),
        # Runtimes bind the host's file over this; a read-only root has no room for a new one.
        ImageFile(path="/etc/resolv.conf", text=""),
        *_fixed_files(),
    ]
    # Any uid may write here: a place to work, and a target for a mounted folder.
    folders = [ImageFolder(path=WORKDIR, mode=0o1777)]
    if variant.cuda:
        places = "".join(f"{folder}\n" for folder in _DRIVER_FOLDERS) + "/.singularity.d/libs\n"
        files.append(ImageFile(path="/etc/ld.so.conf.d/nvidia.conf", text=places))
        patterns = "".join(f"{words}\n" for words in without_code(variant.torch, variant.cuda))
        files.append(ImageFile(path=f"/{HOME}/gpus-without-code", text=patterns))
        folders += [ImageFolder(path=folder) for folder in _DRIVER_FOLDERS]
    return Contents(
        files=tuple(files),
        folders=tuple(folders),
        links=(
            ImageLink(path=f"{programs}/python", target=python),
            ImageLink(path=f"{programs}/python3", target="python"),
            ImageLink(path=f"{programs}/python{base.python}", target="python"),
        ),
    )


def _fixed_files() -> Iterator[ImageFile]:
    for path in sorted(ROOTFS.rglob("*")):
        if path.is_file():
            # The bit in the file's mode: os.access() says no on a file system mounted noexec.
            executable = bool(path.stat().st_mode & stat.S_IXUSR)
            text = path.read_text(encoding="utf-8")
            name = f"/{path.relative_to(ROOTFS)}"
            yield ImageFile(path=name, text=text, executable=executable)


def own_entries(project: Path, base: Base, variant: Variant, lock: VariantLock) -> list[Entry]:
    """Return the entries of the last layer: all that is no package."""
    own = image_contents(base, variant, lock)
    entries = [
        Entry.text(
            file.path.lstrip("/"),
            file.text.encode(),
            mode=0o755 if file.executable else 0o644,
            owner=_OWNER,
        )
        for file in own.files
    ]
    entries += [Entry.link(one.path.lstrip("/"), one.target, owner=_OWNER) for one in own.links]
    entries += [Entry.directory(one.path.lstrip("/"), one.mode, _OWNER) for one in own.folders]
    return entries + [
        Entry.text(f"{HOME}/{name}", path.read_bytes(), owner=_OWNER)
        for name, path in [*_smoke_modules(project), *_doctor_modules()]
    ]


def _smoke_modules(project: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted((project / "smoke").glob("*.py")):
        yield f"smoke/{path.name}", path


def _doctor_modules() -> Iterator[tuple[str, Path]]:
    package = Path(__file__).parent
    modules = [*(package / name for name in BESIDE_DOCTOR), *package.glob("doctor/*.py")]
    for path in sorted(modules):
        yield f"doctor/torchkiln/{path.relative_to(package)}", path


def constraints(variant: Variant, lock: VariantLock) -> str:
    """Return a constraints file for pip and uv, so that no later install swaps or breaks torch.

    It pins the lock, and holds the companions that are not in it to a build that fits its torch.
    """
    torch = lock.wheel("torch").version
    pins = "".join(f"{wheel.name}=={wheel.version}\n" for wheel in lock.wheels)
    absent = sorted(set(companions.COMPANIONS) - {wheel.name for wheel in lock.wheels})
    held = "".join(f"{line}\n" for line in _held(absent, torch, variant.cuda))
    label = torch.partition("+")[2]
    about = _ABSENT.format(torch=torch) + (_LABELLED.format(label=label) if label else "")
    return _HEAD.format(torch=torch) + pins + (about + held if held else "")


def _held(names: Sequence[str], torch: str, cuda: str | None) -> Iterator[str]:
    """Yield what holds each companion to a build that fits, or refuses it and says why."""
    for name in names:
        wanted = companions.requirement(name, torch, cuda)
        if wanted is None:
            yield _NONE.format(name=name)
            # The words are what pip and uv show; a local version takes letters, digits and dots.
            yield f"{name}==0+none.fits.torch.{torch.replace('+', '.')}"
        elif wanted:
            yield wanted


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
