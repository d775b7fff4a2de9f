"""The Debian base: locked .debs become one layer, installed by the release's own dpkg.

The packages are first unpacked by us, so that a shell and dpkg exist; then dpkg itself installs all
of them again in a sandbox without network, with their maintainer scripts, as debootstrap does. So
the result is a Debian in which `apt-get install` works. It takes the time of two unpackings (2 s
more) and saves a dpkg database written by us that dpkg would have to believe.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln import deb, unpack
from torchkiln import layer as layers
from torchkiln.deb import Package, merge_usr, read_package
from torchkiln.errors import BuildError
from torchkiln.layer import CHUNK, Entry, Layer, write_layer
from torchkiln.lockfile import digest
from torchkiln.recipe import recipe
from torchkiln.sandbox import Mount, Sandbox
from torchkiln.unpack import Unpacker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.lockfile import BaseLock, LockedDeb
    from torchkiln.store import Store

_FULL: Final = 4 << 20  # bytes free, on a disk on which nothing can be installed
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
# base-passwd first: the others' scripts look users up. Order and dependencies are dpkg's business
# from there on; at the start nothing is installed yet, hence --force-depends.
_INSTALL: Final = """\
set -eu
dpkg="dpkg --force-depends --force-unsafe-io --force-confnew"
$dpkg --install /run/debs/base-passwd_*.deb /run/debs/base-files_*.deb
$dpkg --unpack /run/debs/*.deb
$dpkg --configure --pending
dpkg --audit
"""
_ENVIRONMENT: Final = {
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    # What an import would write carries the time of its source; py3compile writes regardless.
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    # shadow writes it where a clock would be read, CPython then makes hash-based bytecode.
    "SOURCE_DATE_EPOCH": str(layers.MTIME),
    "TZ": "UTC",
}
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
    made_by = recipe(sys.modules[__name__], deb, layers, unpack)
    return digest([made_by, [locked.sha256 for locked in lock.debs]])


def build_base(store: Store, lock: BaseLock) -> Layer:
    """Return the base's layer, made from the .debs in the store unless it is there already."""
    key = base_key(lock)
    with store.exclusive(f"base-{key}"):
        if (known := store.read_record("layers", key)) and store.has(known["digest"]):
            return Layer(**known)
        with store.workspace() as folder:
            root = folder / "root"
            root.mkdir(mode=0o755)
            debs = folder / "debs"
            debs.mkdir(mode=0o755)
            _prepare(root, debs, store, lock)
            _install(root, debs, folder / "dpkg.log")
            _clean(root)
            layer = write_layer(folder / "layer", f"debian-{lock.release}", tree_entries(root))
            store.adopt(folder / "layer", layer.digest)
        store.write_record("layers", key, vars(layer))
    return layer


def _prepare(root: Path, debs: Path, store: Store, lock: BaseLock) -> None:
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


def _install(root: Path, debs: Path, log: Path) -> None:
    sandbox = Sandbox(
        root=root,
        env=_ENVIRONMENT,
        mounts=(Mount(source=debs, target="/run/debs"),),
        writable=True,
        ignore_chown=True,
    )
    with log.open("wb") as stream:
        done = sandbox.run(["/bin/sh", "-c", _INSTALL], stdout=stream, stderr=subprocess.STDOUT)
    if done.returncode:
        # dpkg has many words for a full disk, the store has one error.
        if shutil.disk_usage(root).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        what = "dpkg could not install the base"
        raise BuildError(what, "\n".join(log.read_text(errors="replace").splitlines()[-15:]))


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


def tree_entries(root: Path) -> Iterator[Entry]:
    """Give what is below `root` as entries with the modes that images have.

    Everything is readable for all (clusters run images as any user; facts: Apptainer without root),
    except /root; set-id bits go; owners are root.
    """
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            status = path.lstat()
            relative = str(path.relative_to(root))
            if stat.S_ISLNK(status.st_mode):
                yield Entry.link(relative, str(path.readlink()), owner="debian")
            elif stat.S_ISDIR(status.st_mode):
                yield Entry.directory(relative, _folder_mode(relative, status), owner="debian")
            elif stat.S_ISREG(status.st_mode):
                yield _file(path, relative, status)
            else:
                what = f"the base holds neither file, folder nor link: /{relative}"
                raise BuildError(what)


def _folder_mode(path: str, status: os.stat_result) -> int:
    if path == "root":
        return 0o700
    return 0o1777 if status.st_mode & stat.S_ISVTX else 0o755


def _file(path: Path, relative: str, status: os.stat_result) -> Entry:
    def chunks() -> Iterator[bytes]:
        with path.open("rb") as stream:
            while data := stream.read(CHUNK):
                yield data

    mode = status.st_mode & 0o755 | 0o644
    return Entry(path=relative, mode=mode, size=status.st_size, chunks=chunks, owner="debian")
