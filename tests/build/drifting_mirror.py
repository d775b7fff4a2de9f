"""A mirror that has moved on since the lock: real packages, an index signed by our own key."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kiln_runs import PROJECT, copy_clone
from pysequoia import SignatureMode, Tsk, sign

from torchkiln.debian import suites

if TYPE_CHECKING:
    from torchkiln.lockfile import BaseLock, LockedDeb
    from torchkiln.store import Store

REPLACED: Final = ("base-files", "gzip", "netbase")
"""base-files is what every point release replaces."""

DROPPED: Final = "e2fsprogs"
"""What no other package of the base needs, nor the contract."""


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """The mirror at `root`, and the key that signs it; `dated` has all that the lock names."""

    root: Path
    key: Tsk
    lock: BaseLock

    @property
    def setting(self) -> str:
        """Return the value of TORCHKILN_DEBIAN_MIRROR."""
        return (self.root / "debian").as_uri()

    @property
    def archive(self) -> str:
        """Return the value of TORCHKILN_DEBIAN_SNAPSHOT."""
        return f"{self.root.as_uri()}/archive/debian/@SNAPSHOTID@"

    def version(self, name: str) -> str:
        """Return the locked version of a package."""
        return next(deb.version for deb in self.lock.debs if deb.name == name)

    def sign(self, moment: datetime) -> None:
        """Write the index of what `debian/pool` holds, as of `moment`."""
        stanzas = [
            _stanza(self.root / "debian", path)
            for path in sorted(self.root.glob("debian/pool/**/*.deb"))
        ]
        for suite in suites(self.lock.release):
            texts = stanzas if suite.name == self.lock.release else []
            _write_suite(self.root / suite.archive / "dists" / suite.name, texts, moment, self.key)


def make_mirror(root: Path, store: Store, lock: BaseLock) -> Mirror:
    """Return a mirror that has replaced three packages of `lock` and dropped one."""
    moment = datetime.fromisoformat(lock.date.replace("Z", "+00:00"))
    for deb in lock.debs:
        source = store.blob(deb.sha256)
        dated = root / "archive" / deb.archive / f"{moment:%Y%m%dT%H%M%SZ}" / deb.filename
        _copy(source, dated)
        if deb.name not in {*REPLACED, DROPPED}:
            _copy(source, root / deb.archive / deb.filename)
            _copy(source, root / "debian" / deb.filename)
    for deb in lock.debs:
        if deb.name in REPLACED:
            _replace(store.blob(deb.sha256), root / "debian" / deb.filename, deb)
    mirror = Mirror(root=root, key=Tsk.generate("archive <archive@example.org>"), lock=lock)
    mirror.sign(moment + timedelta(days=30))
    return mirror


def trusting_clone(target: Path, mirror: Mirror) -> Path:
    """Return a clone that trusts the mirror's key alone, and shares this one's `.venv`."""
    copy_clone(target)
    shutil.copytree(PROJECT / "tests/image", target / "tests/image")  # what `verify` runs
    key = target / f"torchkiln/keys/debian-{mirror.lock.release}.asc"
    key.write_text(str(mirror.key.extract_certificate()))
    programs = target / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "invoke"):
        (programs / name).symlink_to(PROJECT / ".venv/bin" / name)
    requirements = (target / "envs/kiln/requirements.txt").read_bytes()
    stamp = f"{target} {hashlib.sha256(requirements).hexdigest()}  -"
    (target / ".venv/.stamp").write_text(f"{stamp}\n")
    return target


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.link(source, target)


def _replace(source: Path, target: Path, deb: LockedDeb) -> None:
    """Write the package with `+u1` behind its version, as the mirror would name it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        subprocess.run(["dpkg-deb", "--raw-extract", source, tree], check=True)
        control = tree / "DEBIAN/control"
        version = f"Version: {deb.version}"
        control.write_text(control.read_text().replace(version, f"{version}+u1"))
        made = target.with_name(
            f"{deb.name}_{deb.version.rpartition(':')[2]}+u1_{deb.architecture}.deb"
        )
        made.parent.mkdir(parents=True, exist_ok=True)
        command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(made)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _stanza(root: Path, path: Path) -> str:
    """Return the package's entry of Packages; all are essential, so that the index is the base."""
    done = subprocess.run(["dpkg-deb", "--field", path], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Essential:")]
    data = path.read_bytes()
    return "\n".join(
        [
            *lines,
            "Essential: yes",
            f"Filename: {path.relative_to(root)}",
            f"Size: {len(data)}",
            f"SHA256: {hashlib.sha256(data).hexdigest()}",
            "",
        ]
    )


def _write_suite(folder: Path, stanzas: list[str], moment: datetime, key: Tsk) -> None:
    packages = lzma.compress("\n".join(stanzas).encode())
    sha256 = hashlib.sha256(packages).hexdigest()
    name = "main/binary-amd64/Packages.xz"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(packages)
    text = (
        f"Codename: {folder.name}\n"
        f"Date: {moment.astimezone(timezone.utc):%a, %d %b %Y %H:%M:%S UTC}\n"
        f"SHA256:\n {sha256} {len(packages)} {name}\n"
    )
    signed = sign(key.signer(), text.encode(), mode=SignatureMode.CLEAR)
    (folder / "InRelease").write_bytes(signed)
