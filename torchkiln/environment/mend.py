"""Say how an environment differs from its lock, and mend just that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torchkiln.environment.claim import claimed
from torchkiln.environment.compare import compare, drop_unrecorded, installed
from torchkiln.environment.files import own_files, write_own_files
from torchkiln.environment.installer import plain, uninstall
from torchkiln.environment.make import Work, contents, demand_python, fill, lacks
from torchkiln.environment.record import asked, environment, known, write
from torchkiln.environment.suite import smoke
from torchkiln.environment.wanted import Wanted, lock_digest, locked
from torchkiln.errors import EnvError
from torchkiln.lockfile import read_environment_lock

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.catalog import Variant
    from torchkiln.environment.compare import Comparison
    from torchkiln.environment.record import Environment, Record
    from torchkiln.pipeline import Project
    from torchkiln.smoke import SmokeReport


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """How an environment compares with the lock of its `variant` today."""

    env: Environment
    variant: str
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What was mended, by name, and what the suite said then, if it was asked."""

    env: Environment
    mended: tuple[str, ...]
    smoke: SmokeReport | None


def check(project: Project, path: Path) -> CheckReport:
    """Compare the environment at `path` with its lock; one that is not ours raises `EnvError`."""
    env, record = _known(project, path)
    demand_python(env)
    variant, wanted = _wanted(project, env, record)
    found = _compared(project, env, record, variant, wanted)
    return CheckReport(env=env, variant=variant.id, comparison=found)


def repair(project: Project, path: Path, *, with_smoke: bool = True) -> RepairReport:
    """Mend what differs from the lock, and nothing else; what then differs still is `EnvError`."""
    env, record = _known(project, path)
    demand_python(env)
    with claimed(env) as handle:
        variant, wanted = _wanted(project, env, record)
        names = _compared(project, env, record, variant, wanted).names
        pins = [pin for pin in wanted.pins if pin.name in names]
        there = installed(env, record.python)
        unlocked = set(names) - {pin.name for pin in wanted.pins}
        if leaving := sorted(unlocked & there.keys()):
            uninstall(env, leaving, plain(project.environ))
        work = Work(project=project, variant=variant, env=env, handle=handle)
        drop_unrecorded(env, record.python, names)
        if pins:
            fill(work, pins, wanted)
        there_now = contents(env, record.python)
        now = replace(record, lock=wanted.lock, pins=wanted.pins, contents=there_now)
        write_own_files(env, project.catalog.base, variant, now)
        left = _compared(project, env, now, variant, wanted)
        if left.differences:
            what = f"the environment is still not what the lock says: {env.shown}"
            raise EnvError(what, "\n".join(left.names), env.recreate)
        write(env, now)
        tested = smoke(project, env, now.variant, again=bool(names)) if with_smoke else None
    return RepairReport(env=env, mended=tuple(names), smoke=tested)


def _known(project: Project, path: Path) -> tuple[Environment, Record]:
    """Return the environment at `path`, which must be ours and finished, and its record."""
    record = known(environment(path))
    words = asked(project.catalog.variant(record.variant), record.manager)
    return replace(environment(path), asked=words), record


def _wanted(project: Project, env: Environment, record: Record) -> tuple[Variant, Wanted]:
    """Return the variant of a record, and what its lock wants of the environment today."""
    variant = project.catalog.variant(record.variant)
    lock = read_environment_lock(project.root, project.catalog, variant)
    if not record.platform:
        return variant, locked(lock, lacks(record.manager))
    if record.lock != lock_digest(lock):
        what = f"the lock of `{variant.id}` has changed, and this platform is not in it"
        raise EnvError(what, f"it is {record.platform}", env.recreate)
    return variant, Wanted(pins=record.pins, lock=record.lock, platform=record.platform)


def _compared(
    project: Project, env: Environment, record: Record, variant: Variant, wanted: Wanted
) -> Comparison:
    own = own_files(env, project.catalog.base, variant, replace(record, pins=wanted.pins))
    return compare(env, record, wanted.pins, own, variant.cuda)
