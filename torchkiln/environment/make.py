"""Make an environment: from the lock's wheels in the store, checked, and tried in the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from torchkiln.engine.job import TREE_GROWTH
from torchkiln.environment.claim import claimed, clear, remove
from torchkiln.environment.compare import compare_versions, contents_digest, installed
from torchkiln.environment.files import write_own_files
from torchkiln.environment.installer import find_python, install, make_venv, plain, wheelhouse
from torchkiln.environment.record import CONDA_RECORD, Record, asked, environment, read, write
from torchkiln.environment.suite import smoke
from torchkiln.environment.wanted import Platform, locked, resolved, sources, unfit
from torchkiln.errors import EnvError
from torchkiln.fetch import fetch
from torchkiln.host import Space, demand, space_faults
from torchkiln.lockfile import read_environment_lock, variant_lock_path
from torchkiln.progress import say
from torchkiln.projects import use

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torchkiln.catalog import Variant
    from torchkiln.environment.record import Environment, Pin
    from torchkiln.environment.wanted import Wanted
    from torchkiln.lockfile import VariantLock
    from torchkiln.pipeline import Project
    from torchkiln.smoke import SmokeReport

MANAGERS: Final = ("pip", "uv")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an environment is made: by whom it is managed afterwards, and whether it is tried."""

    manager: str = "pip"
    recreate: bool = False
    smoke: bool = True


@dataclass(frozen=True, kw_only=True)
class EnvReport:
    """An environment and what it was made from; `made` is whether that was just now.

    `smoke` is None where the suite was not asked for.
    """

    env: Environment
    record: Record
    made: bool
    smoke: SmokeReport | None


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is worked on; `handle` holds the folder, see `claim.claimed`."""

    project: Project
    variant: Variant
    env: Environment
    handle: int


def lacks(manager: str) -> frozenset[str]:
    """Return what the lock has and an environment of this manager does without."""
    return frozenset({"pip"}) if manager == "uv" else frozenset()


def make(project: Project, variant: Variant, path: Path, options: Options) -> EnvReport:
    """Make the environment of `variant` at `path`, unless it is there already.

    What is there and is not ours, or is of another lock, raises `EnvError` and stays as it is. One
    that was interrupted is made anew.
    """
    env = replace(environment(path), asked=asked(variant, options.manager))
    lock = read_environment_lock(project.root, project.catalog, variant)
    with claimed(env) as handle:
        if not options.recreate:
            demand_no_conda(env)
        there = None if options.recreate else read(env)
        made = there is None
        if there:
            demand_python(env)
            _demand_same(env, there, variant, options, locked(lock, lacks(options.manager)))
            record = there
        else:
            work = Work(project=project, variant=variant, env=env, handle=handle)
            record = _made(work, lock, options)
        report = smoke(project, env, variant.id, again=made) if options.smoke else None
    return EnvReport(env=env, record=record, made=made, smoke=report)


def demand_no_conda(env: Environment) -> None:
    """Raise `EnvError` where the environment is conda's."""
    if (env.own / CONDA_RECORD).exists():
        what = f"there is another environment at this path: {env.shown}"
        raise EnvError(what, "it is conda's", env.elsewhere)


def demand_python(env: Environment) -> None:
    """Raise `EnvError` where the Python is gone that the environment was made from."""
    if not env.interpreter.exists():
        what = f"the Python of the environment is gone: {env.shown}"
        raise EnvError(what, f"{env.interpreter} leads nowhere", env.recreate)


def _demand_same(
    env: Environment, there: Record, variant: Variant, options: Options, wanted: Wanted
) -> None:
    """Raise `EnvError` where the environment is another one, or no more what it was."""
    repair = f"./kiln env --repair {env.shown}"
    if (there.variant, there.manager) != (variant.id, options.manager):
        what = f"there is another environment at this path: {env.shown}"
        why = f"it is `{there.variant}`, for {there.manager}"
        raise EnvError(what, why, env.elsewhere)
    pins = there.pins if there.platform else wanted.pins
    differences = compare_versions(env, there.python, pins)
    if there.lock != wanted.lock or differences:
        lines = [f"{one.name}: {one.found}, locked: {one.locked}" for one in differences]
        what = f"the environment is not what the lock says: {env.shown}"
        raise EnvError(what, "\n".join(lines or ["the lock is another one now"]), repair)


def _made(work: Work, lock: VariantLock, options: Options) -> Record:
    """Make it in the folder that is held; on a failure nothing stays."""
    env = work.env
    if any(path != env.lock_file for path in env.root.iterdir()):
        say(f"removing what is at {env.shown}: it was interrupted, or is to be made anew")
    try:
        clear(env)
        return _filled(work, lock, options)
    except BaseException:
        remove(env)
        raise


def _filled(work: Work, lock: VariantLock, options: Options) -> Record:
    env, variant, catalog = work.env, work.variant, work.project.catalog
    environ = work.project.environ
    python = find_python(lock.python, environ)
    here = Platform(python=python)
    wanted = _wanted(work, lock, here, lacks(options.manager))
    make_venv(env, python, f"torchkiln-{variant.id}", plain(environ))
    fill(work, wanted.pins, wanted)
    record = Record(
        variant=variant.id,
        manager=options.manager,
        lock=wanted.lock,
        python=lock.python,
        pins=wanted.pins,
        platform=wanted.platform,
        contents=contents(env, lock.python),
    )
    write_own_files(env, catalog.base, variant, record)
    write(env, record)
    return record


def _wanted(work: Work, lock: VariantLock, here: Platform, without: frozenset[str]) -> Wanted:
    if not unfit(lock, here):
        return locked(lock, without)
    say(f"the lock is for {lock.platform}: its versions are resolved for {here.uv_name}")
    project = work.project
    return resolved(project.catalog, work.variant, lock, here, project.environ, without=without)


def contents(env: Environment, python: str) -> dict[str, str]:
    """Return, by name, the digest of the files of each distribution that is there."""
    every = installed(env, python)
    return {name: contents_digest(found[0]) for name, found in sorted(every.items())}


def fill(work: Work, pins: Sequence[Pin], wanted: Wanted) -> None:
    """Install `pins` of what is wanted: from the store where the lock has them, else by uv."""
    project, env = work.project, work.env
    if not wanted.wheels:
        _fill_from_indexes(work, pins)
        return
    names = {pin.name for pin in pins}
    wheels = [wheel for wheel in wanted.wheels if wheel.name in names]
    lock = variant_lock_path(project.root, work.variant.id)
    use(project.store, project.root, lock, wanted.wheels)
    fetch(project.store, wheels, (), project.catalog.indexes, project.environ)
    _demand_space(env, sum(wheel.size for wheel in wheels))
    say(f"installing {len(wheels)} packages into {env.shown}")
    with wheelhouse(project.store, wheels) as folder:
        source = ["--no-index", "--offline", "--find-links", str(folder)]
        try:
            install(env, pins, source, plain(project.environ), (work.handle,))
        except EnvError:
            for wheel in wheels:  # uv names the wheel; the store knows what mends it
                project.store.checked(wheel.sha256, wheel.file)
            raise


def _demand_space(env: Environment, packed: int) -> None:
    """Raise `HostError` where wheels of so many bytes have no room in the environment."""
    space = Space(path=env.root, size=packed * TREE_GROWTH, hint=f"df -h {env.root.parent}")
    demand(list(space_faults(space)))


def _fill_from_indexes(work: Work, pins: Sequence[Pin]) -> None:
    """Install what no lock has, from where pip is configured to find packages."""
    project = work.project
    found = sources(project.catalog, work.variant, project.environ)
    environ = found.environment(plain(project.environ))
    install(work.env, pins, found.options, environ, (work.handle,))


def as_json(report: EnvReport) -> dict[str, object]:
    """Return the report for machines."""
    tested = report.smoke
    return {
        "path": str(report.env.root),
        "variant": report.record.variant,
        "manager": report.record.manager,
        "platform": report.record.platform,
        "made": report.made,
        "packages": {pin.name: pin.version for pin in report.record.pins},
        "smoke": tested and {"passed": tested.passed, "skipped": tested.skipped},
    }
