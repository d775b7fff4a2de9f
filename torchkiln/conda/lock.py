"""Lock a variant's conda environment: solve it for linux-64 and a stated driver, write three files.

    envs/<variant>/pixi.lock            version 7, which `install` and a pixi of 2026 read
    envs/<variant>/conda-linux-64.lock  conda create --file, mamba, micromamba
    envs/<variant>/conda-lock.yml       conda-lock install, micromamba

They hold conda's packages. Where torch comes from wheels (`CondaSpec.pip`) these are the locked
ones of requirements.txt, which are installed into the environment afterwards, by their hashes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from torchkiln.conda import formats, rattler
from torchkiln.conda.channels import channels
from torchkiln.conda.solve import Problem, Solution, solve, table_of
from torchkiln.conda.spec import conda_spec
from torchkiln.errors import CondaError, LockError
from torchkiln.files import write_atomic
from torchkiln.lockfile import digest, read_environment_lock
from torchkiln.progress import say
from torchkiln.reports import megabytes
from torchkiln.resolve import glibc_minor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from torchkiln.catalog import Base, Variant
    from torchkiln.conda.channels import Channel
    from torchkiln.conda.spec import CondaSpec
    from torchkiln.errors import KilnError
    from torchkiln.pipeline import Project

FORMAT: Final = 1
"""Raised when a change of this package makes older locks unreadable."""

PIXI_LOCK: Final = "pixi.lock"
_INPUTS: Final = "# inputs: "
_LINUX: Final = "4.18"  # RHEL 8's, which is pixi's default too: the oldest that clusters have


@dataclass(frozen=True, kw_only=True)
class CondaLock:
    """A lock as it was written into `folder`."""

    variant: str
    folder: Path
    solution: Solution


def lock_environment(project: Project, variant: Variant) -> CondaLock:
    """Solve the conda environment of `variant`, write its locks and return what they hold.

    It is made from the variant's lock. Nothing is written where a channel cannot be reached or
    there is no solution: that raises `CondaError`.
    """
    spec = read_spec(project, variant)
    virtual = virtual_packages(project.catalog.base, spec)
    found = channels_of(project, spec)
    say(f"solving the conda environment of `{variant.id}`")
    cache = project.store.root / "conda" / "repodata"
    project.store.make(cache)
    solution = solve(
        Problem(variant=variant, spec=spec, channels=found, virtual=virtual, cache=cache)
    )
    for one in solution.corrections:
        say(f"corrected: {one}")
    inputs = _inputs(spec, virtual)
    head = _head(variant, spec, inputs, solution)
    packages, folder = solution.packages, lock_path(project, variant).parent
    files = {
        "conda-linux-64.lock": formats.explicit(packages),
        "conda-lock.yml": formats.conda_lock(packages, found, inputs),
        # Last: it is the one that is read here.
        PIXI_LOCK: _pixi_lock(project, found, solution, virtual),
    }
    for name, text in files.items():
        write_atomic(folder / name, head + text)
    return CondaLock(variant=variant.id, folder=folder, solution=solution)


def read_spec(project: Project, variant: Variant) -> CondaSpec:
    """Return what the environment is made from, by the variant's lock."""
    return conda_spec(variant, read_environment_lock(project.root, project.catalog, variant))


def channels_of(project: Project, spec: CondaSpec) -> tuple[Channel, ...]:
    """Return the channels, as conda is configured on this machine."""
    return channels(spec.channels, rattler.alias(), project.environ)


def virtual_packages(base: Base, spec: CondaSpec) -> dict[str, str]:
    """Return what a lock is solved for: the base's glibc, any x86_64, the driver that is needed.

    Never what the machine has that solves it. A lock without a driver in it has the CPU build.
    """
    found = {
        "__archspec": "1=x86_64",
        "__glibc": f"2.{glibc_minor(base)}=0",
        "__linux": f"{_LINUX}=0",
        "__unix": "0=0",
    }
    return found | ({"__cuda": f"{spec.needs_driver}=0"} if spec.needs_driver else {})


def lock_path(project: Project, variant: Variant) -> Path:
    """Return where the lock lies that is read here."""
    return project.root / "envs" / variant.id / PIXI_LOCK


def read_lock(project: Project, variant: Variant) -> tuple[rattler.Package, ...]:
    """Return the packages of the lock; a missing or stale one raises `CondaError`."""
    path, spec = lock_path(project, variant), read_spec(project, variant)
    shown, hint = path.relative_to(project.root), f"./kiln lock --conda {variant.flag}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        what = f"there is no conda lock: {shown}"
        raise CondaError(what, hint=hint) from None
    inputs = _inputs(spec, virtual_packages(project.catalog.base, spec))
    if f"{_INPUTS}{inputs}" not in lines:
        what = f"the conda lock is older than what it was made from: {shown}"
        raise CondaError(what, hint=hint)
    return rattler.read_lock(path)


def lock_environments(
    project: Project, variants: Iterable[Variant]
) -> tuple[list[CondaLock], list[KilnError]]:
    """Lock one after the other; return what was locked, and the errors of those that cannot be."""
    locks: list[CondaLock] = []
    failures: list[KilnError] = []
    for variant in variants:
        try:
            locks.append(lock_environment(project, variant))
        except (CondaError, LockError) as error:  # noqa: PERF203
            failures.append(error)
    return locks, failures


def demand(failures: Sequence[KilnError]) -> None:
    """Raise the one error, or one that tells all of them."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        what = f"{len(failures)} conda environments cannot be locked"
        # A channel out of reach is one for all variants.
        each = {one.what: one for one in failures}.values()
        lines = [line for one in each for line in str(one).splitlines() if line]
        raise CondaError(what, "\n".join(lines))


def shown(lock: CondaLock) -> str:
    """Return what was locked, for people: packages, bytes, torch's build, what was corrected."""
    packages = lock.solution.packages
    torch = next((str(one) for one in packages if one.name == "pytorch"), "wheels of torch")
    size = megabytes(sum(one.size for one in packages))
    lines = [f"{lock.variant}: {len(packages)} conda packages, {size}, {torch}"]
    lines += table_of(lock.solution.corrections) if lock.solution.corrections else []
    return "\n".join(lines)


def _inputs(spec: CondaSpec, virtual: dict[str, str]) -> str:
    return digest([FORMAT, asdict(spec), virtual])


def _head(variant: Variant, spec: CondaSpec, inputs: str, solution: Solution) -> str:
    lines = [f"GENERATED by `./kiln lock --conda {variant.flag}` - DO NOT EDIT"]
    lines += [f"corrected: {one}" for one in solution.corrections]
    if spec.pip:
        lines.append("torch and the rest are wheels, installed into it: see requirements.txt")
    return "".join(f"# {line}\n" for line in lines) + f"{_INPUTS}{inputs}\n"


def _pixi_lock(
    project: Project, found: tuple[Channel, ...], solution: Solution, virtual: dict[str, str]
) -> str:
    with project.store.workspace() as folder:
        path = folder / PIXI_LOCK
        rattler.write_lock(path, found, solution.packages, virtual)
        return path.read_text(encoding="utf-8")
