"""Say how a conda environment differs from its lock, package by package and file by file; mend it.

Beside conda's packages stand the locked wheels, where torch comes as one: pip's rules hold there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkiln import bootstrap
from torchkiln.conda import record as records
from torchkiln.conda.install import describe, locked_packages, wheels_record
from torchkiln.conda.lock import read_spec
from torchkiln.conda.prefix import drop_unreadable, put_packages, put_wheels, read_records
from torchkiln.environment import compare as distributions
from torchkiln.environment.claim import claimed
from torchkiln.environment.compare import Comparison, Difference
from torchkiln.environment.faults import InstalledFile, find_faults
from torchkiln.environment.files import own_files
from torchkiln.environment.installer import plain, uninstall
from torchkiln.environment.make import Work, demand_python
from torchkiln.environment.mend import CheckReport, RepairReport
from torchkiln.environment.record import asked
from torchkiln.environment.suite import smoke
from torchkiln.errors import CondaError
from torchkiln.lockfile import read_environment_lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torchkiln.catalog import Variant
    from torchkiln.conda.rattler import Package
    from torchkiln.conda.record import CondaRecord
    from torchkiln.environment.record import Environment
    from torchkiln.pipeline import Project


def check(project: Project, env: Environment, record: CondaRecord) -> CheckReport:
    """Compare a conda environment of ours with its lock of today."""
    bootstrap.require_conda()
    variant = project.catalog.variant(record.variant)
    found = _compare(project, variant, env, locked_packages(project, variant))
    return CheckReport(env=env, variant=variant.id, comparison=found)


def repair(
    project: Project, env: Environment, record: CondaRecord, *, with_smoke: bool
) -> RepairReport:
    """Mend what differs from the lock, and nothing else; what then differs still raises."""
    bootstrap.require_conda()
    variant = project.catalog.variant(record.variant)
    packages = locked_packages(project, variant)
    env = replace(env, asked=asked(variant, "conda"))
    with claimed(env) as handle:
        work = Work(project=project, variant=variant, env=env, handle=handle)
        names = _compare(project, variant, env, packages).names
        conda = {package.name for package in packages} - _wheels(project, variant)
        if wrong := conda.intersection(names):
            drop_unreadable(env)
            put_packages(project, variant, env, packages, wrong)
        lock = read_environment_lock(project.root, project.catalog, variant)
        wheels = _wheels(project, variant)
        there = distributions.installed(env, lock.python)
        if leaving := sorted((set(names) - conda - wheels) & there.keys()):
            uninstall(env, leaving, plain(project.environ))
        if wheels.intersection(names):
            demand_python(env)
            put_wheels(work, lock, names)
        describe(project, variant, env, packages)
        left = _compare(project, variant, env, packages).names
        if left:
            what = f"the environment is still not what the lock says: {env.shown}"
            raise CondaError(what, "\n".join(left), env.recreate)
        records.write(env, records.record_of(project, variant))
        tested = smoke(project, env, variant.id, again=bool(names)) if with_smoke else None
    return RepairReport(env=env, mended=tuple(names), smoke=tested)


def _wheels(project: Project, variant: Variant) -> set[str]:
    """Return the names of the wheels in the environment; they are in nobody's place but pip's."""
    if not read_spec(project, variant).pip:
        return set()
    lock = read_environment_lock(project.root, project.catalog, variant)
    return {one.name for one in lock.wheels}


def _compare(
    project: Project, variant: Variant, env: Environment, packages: Sequence[Package]
) -> Comparison:
    """Compare conda's packages with their records and files, then the wheels."""
    wheels = _wheels(project, variant)
    there = {record["name"]: record for record in read_records(env).values()}
    asked = [one for one in packages if one.name not in wheels]
    wrong = [one for package in asked for one in _versions(package, there.get(package.name))]
    names = {one.name for one in wrong}
    right = [package for package in asked if package.name not in names]
    files = [file for one in right for file in _files(env, there[one.name])]
    for owner, said in find_faults(files).items():
        package = next(one for one in right if one.name == owner)
        wrong += [Difference(name=owner, found=one, locked=_shown(package)) for one in said]
    beside = _distributions(project, variant, env)
    known = {package.name for package in packages}
    foreign = {name: _build(one) for name, one in there.items() if name not in known}
    return Comparison(
        differences=tuple(sorted([*wrong, *beside.differences])),
        foreign=dict(sorted((beside.foreign | foreign).items())),
        files=len(files) + beside.files,
    )


def _versions(package: Package, record: dict[str, Any] | None) -> Iterator[Difference]:
    """Yield that a package is missing, or is another one: by version, build and sha256."""
    if record is None:
        yield Difference(name=package.name, found="missing", locked=_shown(package))
    elif _build(record) != _shown(package):
        yield Difference(name=package.name, found=_build(record), locked=_shown(package))
    elif record.get("sha256") != package.sha256:
        found = f"another package of {_build(record)}"
        yield Difference(name=package.name, found=found, locked=_shown(package))


def _files(env: Environment, record: dict[str, Any]) -> Iterator[InstalledFile]:
    """Yield the files of a package, as conda's record of it has them.

    Where a prefix was written into a file its hash is another one, and its size may be. What is a
    link in the package need not lead anywhere.
    """
    for entry in record["paths_data"]["paths"]:
        path = env.root / entry["_path"]
        if entry.get("path_type") == "directory" or path.is_symlink():
            continue
        sha256 = entry.get("sha256_in_prefix") or entry.get("sha256") or ""
        yield InstalledFile(owner=record["name"], name=entry["_path"], path=path, sha256=sha256)


def _distributions(project: Project, variant: Variant, env: Environment) -> Comparison:
    """Compare the wheels with the lock; what conda brought is no foreign distribution."""
    lock = read_environment_lock(project.root, project.catalog, variant)
    made, own = wheels_record(variant, lock), {}
    if _wheels(project, variant):
        own = own_files(env, project.catalog.base, variant, made)
    else:
        made = replace(made, pins=())
    found = distributions.compare(env, made, made.pins, own, variant.cuda)
    files = {
        Path(entry["_path"]).parent.name
        for one in read_records(env).values()
        for entry in one["paths_data"]["paths"]
    }
    by_conda = {
        name
        for name, every in distributions.installed(env, lock.python).items()
        if any(Path(str(getattr(one, "_path", ""))).name in files for one in every)
    }
    foreign = {name: text for name, text in found.foreign.items() if name not in by_conda}
    return Comparison(differences=found.differences, foreign=foreign, files=found.files)


def _build(record: dict[str, Any]) -> str:
    return f"{record['version']} {record['build']}"


def _shown(package: Package) -> str:
    return f"{package.version} {package.build}"
