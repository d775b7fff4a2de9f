"""Torchkiln itself, as a bundle carries it: its tracked files, and the wheels that it runs with."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Final

from torchkiln import pipconf
from torchkiln.bootstrap import wheels_folder
from torchkiln.errors import BuildError
from torchkiln.layer import MTIME

if TYPE_CHECKING:
    from pathlib import Path

_LOADER: Final = "torchkiln/bundle-load.sh"
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The version that the requirements' wheels are for: the one that runs this."""


def loader(project: Path) -> bytes:
    """Return the program that sets a bundle up."""
    text = (project / _LOADER).read_text(encoding="utf-8")
    return text.replace("@PYTHON@", f"python{PYTHON}").encode()


def source(project: Path) -> bytes:
    """Return a tar of the files that git tracks, as they are now."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in _tracked(project):
            if (project / name).is_file():
                _add(archive, project / name, name)
    return stream.getvalue()


def _tracked(project: Path) -> list[str]:
    command = ["git", "-C", str(project), "ls-files", "-z"]
    what = "Torchkiln's own files, which a bundle carries, cannot be listed"
    hint = "write the bundle from a git clone of Torchkiln"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(what, "there is no git", hint) from None
    if done.returncode:
        raise BuildError(what, done.stderr, hint)
    return sorted(filter(None, done.stdout.split("\0")))


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    info = tarfile.TarInfo(name)
    data = path.read_bytes()
    info.size, info.mtime = len(data), MTIME
    info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    archive.addfile(info, io.BytesIO(data))


def requirements(project: Path, folder: Path) -> list[Path]:
    """Bring the wheels of Torchkiln's requirements, for this Python, into `folder`."""
    command = [sys.executable, "-I", "-m", "pip", "download", "--no-input", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--progress-bar=off", f"--dest={folder}"]
    command += ["--require-hashes", "--only-binary=:all:"]
    if wheels_folder(project).is_dir():
        command += ["--no-index", f"--find-links={wheels_folder(project)}"]
    command += [f"--requirement={project / 'envs/kiln/requirements.txt'}"]
    environ = pipconf.only_fetching(os.environ)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        what = "the wheels of Torchkiln's own requirements cannot be had"
        hint = "`python3 -m pip config list` shows which package index pip uses"
        raise BuildError(what, done.stderr[-2000:], hint)
    return sorted(folder.glob("*.whl"))
