"""Install a variant's conda lock: every package by its sha256, torch's build as locked.

The folder is held and marked as those of `./kiln env` are (`torchkiln.environment`): one that was
interrupted is made anew, from packages that are in the cache by then.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from torchkiln import bootstrap, contents
from torchkiln.conda import rattler, record
from torchkiln.conda.lock import read_lock, read_spec
from torchkiln.conda.needs import check_machine
from torchkiln.conda.prefix import put_packages, put_wheels
from torchkiln.conda.solve import check_build, check_hashes
from torchkiln.environment import record as venv
from torchkiln.environment.claim import claimed, clear, remove
from torchkiln.environment.compare import installed
from torchkiln.environment.files import own_files
from torchkiln.environment.make import Work
from torchkiln.environment.record import Record
from torchkiln.environment.suite import smoke
from torchkiln.environment.wanted import locked
from torchkiln.errors import CondaError
from torchkiln.files import write_atomic
from torchkiln.lockfile import LockedWheel, VariantLock, read_environment_lock
from torchkiln.reports import smoke_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torchkiln.catalog import Variant
    from torchkiln.conda.rattler import Package
    from torchkiln.environment.record import Environment
    from torchkiln.pipeline import Project
    from torchkiln.smoke import SmokeReport


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an environment is made: anew where there is one, and whether it is tried."""

    recreate: bool = False
    smoke: bool = True


@dataclass(frozen=True, kw_only=True)
class Installed:
    """An environment of `packages`; `made` is whether that was just now.

    `smoke` is None where the suite was not asked for.
    """

    env: Environment
    packages: tuple[Package, ...]
    made: bool
    smoke: SmokeReport | None


def install_environment(
    project: Project, variant: Variant, path: Path, options: Options
) -> Installed:
    """Make the conda environment of `variant` at `path` from its lock, unless it is there.

    What is there and is not ours raises `EnvError` and stays as it is; a package that is not the
    locked one raises `CondaError`, as does a system that is too old for it. A driver that is
    missing or too old is told: the environment may be for another machine.
    """
    bootstrap.require_conda()
    packages = locked_packages(project, variant)
    check_machine(variant, packages, rattler.this_machine(project.environ))
    env = replace(venv.environment(path), asked=venv.asked(variant, "conda"))
    with claimed(env) as handle:
        made = options.recreate or not _there(project, variant, env)
        if made:
            clear(env)
            try:
                _fill(Work(project=project, variant=variant, env=env, handle=handle), packages)
            except BaseException:
                remove(env)
                raise
        tested = smoke(project, env, variant.id, again=made) if options.smoke else None
    return Installed(env=env, packages=packages, made=made, smoke=tested)


def locked_packages(project: Project, variant: Variant) -> tuple[Package, ...]:
    """Return the packages of the lock of `variant`: torch's build is right, each has a hash."""
    packages = read_lock(project, variant)
    check_build(variant, packages)
    check_hashes(packages)
    return packages


def shown(done: Installed, kernel: str = "") -> str:
    """Return what was made, what the suite said, and how it is activated, for people.

    `kernel` is the name by which the user's Jupyter lists it.
    """
    made = "made" if done.made else "it was there"
    lines = [f"{done.env.root}: {len(done.packages)} conda packages, {made}"]
    lines += smoke_lines(done.smoke)
    lines += [f"your Jupyter lists it as {kernel}"] if kernel else []
    return "\n".join([*lines, "", f"conda activate {shlex.quote(str(done.env.root))}"])


def as_json(done: Installed) -> dict[str, Any]:
    """Return it for machines; versions and builds of conda's packages by name."""
    tested = done.smoke
    return {
        "path": str(done.env.root),
        "manager": "conda",
        "made": done.made,
        "packages": {one.name: f"{one.version} {one.build}" for one in done.packages},
        "smoke": tested and {"passed": tested.passed, "skipped": tested.skipped},
    }


def describe(
    project: Project, variant: Variant, env: Environment, packages: Sequence[Package]
) -> None:
    """Write what the suite compares the environment with, and what holds pip to the wheels."""
    lock = read_environment_lock(project.root, project.catalog, variant)
    spec, base = read_spec(project, variant), project.catalog.base
    if spec.pip:
        for path, text in own_files(env, base, variant, wheels_record(variant, lock)).items():
            write_atomic(path, text)
        return
    names = {"pytorch": "torch", **{one.name: one.name for one in spec.companions}}
    wheels = [
        _promised(env, lock.python, names[one.name], one.version)
        for one in packages
        if one.name in names
    ]
    lock = VariantLock(
        variant=variant.id, inputs="", python=lock.python, wheels=tuple(sorted(wheels))
    )
    write_atomic(env.own / "image.json", contents.description(base, variant, lock))


def wheels_record(variant: Variant, lock: VariantLock) -> Record:
    """Return what an environment of the wheels of `lock` would say of itself, without conda."""
    pins = locked(lock, frozenset()).pins
    return Record(variant=variant.id, manager="conda", lock="", python=lock.python, pins=pins)


def _there(project: Project, variant: Variant, env: Environment) -> bool:
    """Tell whether the environment is there already; raise where it is another one."""
    found = record.read(env)
    if found == record.record_of(project, variant):
        return True
    if found and found.variant == variant.id:
        what = f"the environment is not what the lock says: {env.shown}"
        hint = f"./kiln env --repair {shlex.quote(env.shown)}"
        raise CondaError(what, "the lock is another one now", hint)
    if found or venv.read(env):
        what = f"there is another environment at this path: {env.shown}"
        raise CondaError(what, hint=env.elsewhere)
    return False


def _fill(work: Work, packages: Sequence[Package]) -> None:
    project, variant, env = work.project, work.variant, work.env
    put_packages(project, variant, env, packages)
    if read_spec(project, variant).pip:
        put_wheels(work, read_environment_lock(project.root, project.catalog, variant))
    describe(project, variant, env, packages)
    record.write(env, record.record_of(project, variant))


def _promised(env: Environment, python: str, name: str, version: str) -> LockedWheel:
    """Return a distribution as conda's package promises it.

    conda-forge's torch calls itself 2.4.1.post300, after the number of its build
    (conda-forge/pytorch-cpu-feedstock issue 315).
    """
    found = [one.version for one in installed(env, python).get(name, [])]
    same = [one for one in found if Version(one).base_version == Version(version).base_version]
    return LockedWheel(name=name, version=same[0] if same else version, file="", size=0, sha256="")
