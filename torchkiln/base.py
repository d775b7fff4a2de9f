"""The Debian base: locked .debs become one layer, installed by the release's own dpkg.

The packages are first unpacked by us, so that a shell and dpkg exist; then dpkg itself installs all
of them again in a sandbox without network, with their maintainer scripts, as debootstrap does. So
the result is a Debian in which `apt-get install` works. It takes the time of two unpackings (2 s
more) and saves a dpkg database written by us that dpkg would have to believe.
"""

from __future__ import annotations

import io
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from torchkiln import deb, dpkg, folder, layer_records, seccomp, unpack
from torchkiln import layer as layers
from torchkiln.deb import Package, merge_usr, read_package
from torchkiln.dpkg import install
from torchkiln.errors import BuildError
from torchkiln.files import demand_links
from torchkiln.folder import tree_entries
from torchkiln.layer import Layer, write_layer
from torchkiln.lockfile import digest
from torchkiln.progress import Progress
from torchkiln.recipe import recipe
from torchkiln.unpack import Unpacker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torchkiln.lockfile import BaseLock, LockedDeb
    from torchkiln.store import Store

_MERGED_LINKS: Final = ("bin", "lib", "lib64", "sbin")
_APT_SOURCES: Final = "usr/share/doc/apt/examples/sources.list"
# What Debian's slim images leave out, in dpkg's own terms, so that later packages leave it out too.
_LEFT_OUT: Final = ("doc", "info", "lintian", "locale", "man")
_SLIM: Final = (
    "".join(f"path-exclude /usr/share/{name}/*\n" for name in _LEFT_OUT)
    + f"""\
path-include /usr/share/doc/*/copyright
path-include /{_APT_SOURCES}
"""
)
# Logs, caches, locks and backups: they tell of the build and of its clock, not of the system.
_LEFTOVERS: Final = (
    "etc/*-",
    "etc/.pwd.lock",
    "run/*",
    "tmp/*",
    "var/cache/apt/*",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "var/log/**/*.log",
    _APT_SOURCES,
)


def base_key(lock: BaseLock) -> str:
    """Return the key of the base's layer: a hash of all that it is made from."""
    made_by = recipe(sys.modules[__name__], deb, dpkg, folder, layers, seccomp, unpack)
    return digest([made_by, layers.CODEC, [locked.sha256 for locked in lock.debs]])


def build_base(
    store: Store, lock: BaseLock, unpacked: Callable[[Path], object] = lambda _: None
) -> Layer:
    """Return the base's layer, made from the .debs in the store unless it is there already.

    `unpacked` is told, while it is made, of a folder that holds all files of all packages; dpkg
    replaces them afterwards.
    """
    key = base_key(lock)
    with store.exclusive(f"base-{key}"):
        if (known := layer_records.read(store, key)) and store.has(known.digest, known.size):
            return known
        with store.workspace() as work:
            demand_links(work, "dpkg needs")
            root = work / "root"
            root.mkdir(mode=0o755)
            debs = work / "debs"
            debs.mkdir(mode=0o755)
            sizes = {locked.name: locked.size for locked in lock.debs}
            # Each package is unpacked, unpacked again by dpkg, and set up.
            with Progress("base", 3 * sum(sizes.values())) as progress:
                _prepare(root, debs, store, lock, progress)
                unpacked(root)
                install(root, debs, lambda name: progress.advance(sizes.get(name, 0)))
            _clean(root)
            layer = write_layer(work / "layer", f"debian-{lock.release}", tree_entries(root))
            store.adopt(work / "layer", layer.digest)
        layer_records.write(store, key, layer)
    return layer


def _prepare(root: Path, debs: Path, store: Store, lock: BaseLock, progress: Progress) -> None:
    """Unpack all packages into `root`, with what dpkg needs to start; lay the packages into `debs`.

    There they are uncompressed: dpkg would decompress again what has just been.
    """
    for name in _MERGED_LINKS:
        (root / name).symlink_to(f"usr/{name}")
    unpacker = Unpacker(root, rename=_first_place)
    with ThreadPoolExecutor() as pool:
        packages = pool.map(partial(_read, store), lock.debs)
        for locked, package in zip(lock.debs, packages, strict=True):
            unpacker.unpack(io.BytesIO(package.files), _label(locked))
            name = f"{locked.name}_{locked.architecture}.deb"
            (debs / name).write_bytes(package.plain())
            progress.advance(locked.size)
    config = root / "etc/dpkg/dpkg.cfg.d/slim"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(_SLIM)
    for name in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / name).mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/status").touch()


def _read(store: Store, locked: LockedDeb) -> Package:
    return read_package(store.checked(locked.sha256, _label(locked)), _label(locked))


def _label(locked: LockedDeb) -> str:
    return f"{locked.name} {locked.version}"


def _first_place(name: str) -> str | None:
    """Return where a member goes; what the slim base leaves out is dpkg's to decide on."""
    documents = name.startswith(tuple(f"usr/share/{folder}/" for folder in _LEFT_OUT))
    return None if documents else merge_usr(name)


def _clean(root: Path) -> None:
    sources = root / _APT_SOURCES
    lines = [line.split() for line in sources.read_text().splitlines()]
    kept = [" ".join([*line[:3], "main"]) for line in lines if line[:1] == ["deb"]]
    (root / "etc/apt/sources.list").write_text("\n".join(kept) + "\n")
    for pattern in _LEFTOVERS:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for path in root.rglob("*.pyc"):
        _uncheck(path)


def _uncheck(path: Path) -> None:
    """Turn checked hash-based bytecode into unchecked (PEP 552: the second bit of the flags)."""
    data = bytearray(path.read_bytes())
    if data[4] != 0b11:  # noqa: PLR2004
        what = f"the base holds bytecode that depends on a clock: {path.name}"
        raise BuildError(what)
    data[4] = 0b01
    path.write_bytes(data)
