"""The task on environments: make one, compare it with its lock, mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from invoke.exceptions import Exit
from invoke.tasks import task

from torchkiln import pipeline
from torchkiln.cli.flags import ROOT, WHICH, as_json, expected, selected
from torchkiln.conda import install as conda
from torchkiln.conda import mend as conda_mend
from torchkiln.conda import record as conda_record
from torchkiln.environment import kernel, make, mend, reports
from torchkiln.environment.record import environment
from torchkiln.errors import EnvError, did_you_mean

if TYPE_CHECKING:
    from invoke.context import Context

    from torchkiln.catalog import Variant
    from torchkiln.environment.mend import RepairReport


@task(
    name="env",
    help={
        **WHICH,
        "manager": "who manages it afterwards: pip (by default), uv or conda",
        "path": "where it is made (default: environments/VARIANT)",
        "check": "say how the environment at a path differs from its lock",
        "repair": "mend what differs in the environment at a path",
        "recreate": "make it anew where there is one already",
        "jupyter": "let your Jupyter list the kernel of it, by the name of the folder",
        "smoke": "run the smoke suite in it (default)",
        "json": "print one JSON object",
    },
)
@expected
def env_(
    c: Context,
    cpu: bool = False,
    cuda: str = "",
    manager: str = "pip",
    path: str = "",
    check: str = "",
    repair: str = "",
    recreate: bool = False,
    jupyter: bool = False,
    smoke: bool = True,
    json: bool = False,
) -> None:
    """Make an environment from a lock, without any container."""
    if (check and repair) or ((check or repair) and (cpu or cuda)):
        what = "give `--check` or `--repair` alone: an environment knows its variant"
        raise EnvError(what, hint=f"./kiln env --check {check or repair}")
    if check:
        _check(check, json=json)
        return
    if repair:
        report = _repair(repair, smoke=smoke)
        print(as_json({"mended": report.mended}) if json else reports.repaired(report))
        return
    known = (*make.MANAGERS, "conda")
    if manager not in known:
        what = f"there is no manager `{manager}`{did_you_mean(manager, known)}"
        raise EnvError(what, hint="./kiln env --cpu --manager pip")
    project, variant = selected(cpu, cuda)
    if manager == "conda":
        how = conda.Options(recreate=recreate, smoke=smoke)
        done = conda.install_environment(project, variant, _place(path, variant, manager), how)
        name = kernel.register(done.env, variant, project.environ) if jupyter else ""
        print(as_json(conda.as_json(done) | {"kernel": name}) if json else conda.shown(done, name))
        return
    options = make.Options(manager=manager, recreate=recreate, smoke=smoke)
    made = make.make(project, variant, _place(path, variant, manager), options)
    name = kernel.register(made.env, variant, project.environ) if jupyter else ""
    print(as_json(make.as_json(made) | {"kernel": name}) if json else reports.made(made, name))


def _place(path: str, variant: Variant, manager: str) -> Path:
    """Return where it lies: as named, else by variant and manager in the project."""
    if path:
        return Path(path)
    suffix = "" if manager == "pip" else f"-{manager}"
    return ROOT / "environments" / f"{variant.id}{suffix}"


def _repair(path: str, *, smoke: bool) -> RepairReport:
    project, env = pipeline.open_project(ROOT), environment(Path(path))
    if found := conda_record.read(env):
        return conda_mend.repair(project, env, found, with_smoke=smoke)
    return mend.repair(project, Path(path), with_smoke=smoke)


def _check(path: str, *, json: bool) -> None:
    project, env = pipeline.open_project(ROOT), environment(Path(path))
    found = conda_record.read(env)
    report = conda_mend.check(project, env, found) if found else mend.check(project, Path(path))
    print(as_json(reports.checked_as_json(report)) if json else reports.checked(report))
    if report.comparison.differences:
        raise Exit(code=EnvError.exit_code)
