"""Install packages into a root with that root's own dpkg, in the sandbox, without a network."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Final

from torchkiln.errors import BuildError
from torchkiln.layer import MTIME
from torchkiln.sandbox import Mount, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
    "SOURCE_DATE_EPOCH": str(MTIME),
    "TZ": "UTC",
}
_FULL: Final = 4 << 20  # bytes free, on a disk on which nothing can be installed
_STEP: Final = re.compile(r"(?:Unpacking|Setting up) ([^ :]+)")
_SHOWN: Final = 15  # of dpkg's last lines, in an error


def install(root: Path, debs: Path, advance: Callable[[str], object]) -> None:
    """Install every package in the folder `debs` into `root`, which has its files already.

    `advance` is told a package's name when it is unpacked and again when it is set up.
    """
    sandbox = Sandbox(
        root=root,
        env=_ENVIRONMENT,
        mounts=(Mount(source=debs, target="/run/debs"),),
        writable=True,
        ignore_chown=True,
    )
    reading, writing = os.pipe()
    with os.fdopen(reading, errors="replace") as output, ThreadPoolExecutor(1) as pool:
        follower = pool.submit(_follow, output, advance)
        with os.fdopen(writing, "wb") as stream:
            done = sandbox.run(["/bin/sh", "-c", _INSTALL], stdout=stream, stderr=subprocess.STDOUT)
        lines = follower.result()
    if done.returncode:
        # dpkg has many words for a full disk, the store has one error.
        if shutil.disk_usage(root).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        what = "dpkg could not install the base"
        raise BuildError(what, "".join(lines[-_SHOWN:]))


def _follow(output: IO[str], advance: Callable[[str], object]) -> list[str]:
    """Read dpkg's output to its end, telling of each step; return its lines."""
    lines = []
    for line in output:
        lines.append(line)
        if step := _STEP.match(line):
            advance(step[1])
    return lines
