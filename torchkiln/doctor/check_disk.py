"""Disks: room, inodes and quotas where pip, caches and container tools put their files."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, problem, skipped, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

_HOPELESS: Final = 100_000_000
"""Bytes. pip unpacks torch's wheel, of 200 MB and more, beside its download."""

_WANTED: Final = 1_000_000_000
"""Bytes. A CUDA torch is downloaded in pieces of up to 0.9 GB."""

_INODES: Final = 1000
"""A torch has 15,000 files; with fewer than this even its smallest dependency does not fit."""

_TRIED: Final = 1 << 20
"""Bytes that are asked for, for an instant: quotas are told to nobody before."""

# What is read of the environment, and what pip, torch and the hubs take where it is not set.
_CACHES: Final = ("XDG_CACHE_HOME", "PIP_CACHE_DIR", "TORCH_HOME", "HF_HOME", "TRITON_CACHE_DIR")
_TOOLS: Final = (
    *("APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "SINGULARITY_CACHEDIR", "SINGULARITY_TMPDIR"),
    *("ENROOT_CACHE_PATH", "ENROOT_DATA_PATH", "ENROOT_TEMP_PATH", "TORCHKILN_HOME"),
)
# Where there may be room, the best first: clusters name theirs.
_ROOMY: Final = ("SCRATCH", "WORK", "LOCAL_SCRATCH", "SLURM_TMPDIR")
_ROOMY_PATHS: Final = ("/var/tmp", "/tmp", "/scratch", "/local", "/dev/shm")  # noqa: S108


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A folder by the variable that moves it elsewhere; `path` is as programs name it."""

    variable: str
    path: str


@check("temporary-space", area="container", rank=77)
def temporary_space(facts: Facts) -> Outcome:
    """Look for room in TMPDIR, where pip unpacks and compilers write."""
    path = facts.subject.environ.get("TMPDIR") or "/tmp"  # noqa: S108
    return _judge(facts, [_Place(variable="TMPDIR", path=path)])


@check("cache-space", area="container", rank=78)
def cache_space(facts: Facts) -> Outcome:
    """Look for room where pip, torch, the hubs and container tools keep what they fetch."""
    return _judge(facts, list(_caches(facts.subject.environ)))


@check("temporary-exec", area="container", rank=79)
def temporary_exec(facts: Facts) -> Outcome:
    """Look whether TMPDIR takes programs: torch.compile loads there what it has compiled."""
    environ = facts.subject.environ
    variable = "TORCHINDUCTOR_CACHE_DIR" if "TORCHINDUCTOR_CACHE_DIR" in environ else "TMPDIR"
    path = environ.get(variable) or "/tmp"  # noqa: S108
    if not _noexec(_existing(facts.subject.root, path)):
        return ok("TMPDIR takes programs")
    return warning(
        f"{path} is mounted noexec",
        cause="torch.compile ends with `failed to map segment from shared object`",
        remedy=_elsewhere(facts, _Place(variable=variable, path=path)),
        link="pytorch/pytorch#123054",
    )


def _noexec(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0))


def _caches(environ: Mapping[str, str]) -> Iterator[_Place]:
    home = environ.get("HOME", "")
    if home.startswith("/") and not environ.get("XDG_CACHE_HOME"):
        yield _Place(variable="XDG_CACHE_HOME", path=f"{home}/.cache")
    for variable in (*_CACHES, *_TOOLS):
        if environ.get(variable, "").startswith("/"):
            yield _Place(variable=variable, path=environ[variable])


def _judge(facts: Facts, places: list[_Place]) -> Outcome:
    """Return the worst of what is to be said of `places`."""
    faults = [(fault, place) for place in places if (fault := _fault(facts, place))]
    if not places:
        return skipped("there is no HOME, and no variable names a place")
    if not faults:
        return ok(f"{', '.join(place.variable for place in places)}: there is room")
    (hopeless, evidence), place = max(faults, key=lambda one: one[0][0])
    say = problem if hopeless else warning
    return say(
        f"{place.variable}: {evidence} in {place.path}",
        cause="pip, caches and compilers end with `No space left on device`, or hang",
        remedy=_elsewhere(facts, place),
        link="pypa/pip#5816",
    )


def _fault(facts: Facts, place: _Place) -> tuple[bool, str] | None:
    """Return whether nothing fits there, and what lacks; None where there is room."""
    folder = _existing(facts.subject.root, place.path)
    if not os.access(folder, os.W_OK | os.X_OK):
        # A HOME without permission has a check of its own.
        return (True, "no permission to write") if place.variable == "TMPDIR" else None
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < _HOPELESS:
        return True, f"{free / 1e6:.0f} MB are free"
    if found.f_files and found.f_favail < _INODES:
        return True, f"{found.f_favail} files may be made"
    if refusal := _refusal(folder):
        return True, refusal
    return (False, f"{free / 1e6:.0f} MB are free") if free < _WANTED else None


def _existing(root: Path, name: str) -> Path:
    """Return the folder that a new file of `name` would lie in: itself, or one above."""
    path = root / name.lstrip("/")
    return next(one for one in (path, *path.parents) if os.access(one, os.F_OK))


def _refusal(folder: Path) -> str:
    """Ask for a little room, in a file without a name, which is gone before this returns."""
    if sys.platform != "linux":
        return ""
    try:
        file = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(file, 0, _TRIED)
        finally:
            os.close(file)
    except OSError as error:  # of another number where files without names are unknown, as on NFS
        return os.strerror(error.errno) if error.errno in {errno.EDQUOT, errno.ENOSPC} else ""
    return ""


def _elsewhere(facts: Facts, place: _Place) -> str:
    """Return the command that moves `place` to where there is room."""
    root, environ = facts.subject.root, facts.subject.environ
    named = [environ[name] for name in _ROOMY if environ.get(name, "").startswith("/")]
    for path in (*named, *_ROOMY_PATHS):
        folder, other = root / path.lstrip("/"), _Place(variable="TMPDIR", path=path)
        fits = os.access(folder, os.F_OK) and not _noexec(folder)
        if fits and _fault(facts, other) is None:
            return f'export {place.variable}="$(mktemp -d -p {shlex.quote(path)})"'
    return f"du -xh -d 1 {shlex.quote(place.path)} | sort -h"
