"""Tasks on the list of variants: which there are, which to take, and their locks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from torchkiln import bootstrap, catalog, ci, committed, lock, pipeline, render
from torchkiln import recommend as recommends
from torchkiln import status as statuses
from torchkiln import variant_reports as reports
from torchkiln.cli.flags import ROOT, WHICH, as_json, expected, selected
from torchkiln.conda import lock as conda_lock
from torchkiln.errors import DriftError
from torchkiln.machine import described, this_machine
from torchkiln.wheel_facts import check_facts as check

if TYPE_CHECKING:
    from invoke.context import Context


@task(name="list", help={"json": "print one JSON array"})
@expected
def list_(c: Context, json: bool = False) -> None:
    """Show the variants, what they run on, and what is built."""
    found = statuses.status(pipeline.open_project(ROOT))
    print(as_json(statuses.as_json(found)) if json else reports.listed(found))


@task(
    iterable=["gpu"],
    help={
        "driver": "answer for a machine with this driver: 535 or 535.104.05",
        "gpu": "and with this GPU, more than once: a100, rtx4090, or a compute capability, 8.6",
        "platform": "whose driver it is: linux (by default), or windows for WSL 2",
        "json": "print one JSON object",
    },
)
@expected
def recommend(
    c: Context,
    gpu: list[str],
    driver: str = "",
    platform: str = "linux",
    json: bool = False,
) -> None:
    """Say which variant a machine can run, and why not another."""
    project = pipeline.open_project(ROOT)
    elsewhere = bool(driver or gpu)
    machine = described(driver, gpu, platform) if elsewhere else this_machine(project.environ)
    locked = {variant.id for variant in pipeline.locked_variants(project)}
    found = recommends.recommend(project.catalog.variants, locked, machine)
    print(as_json(recommends.as_json(found)) if json else reports.recommended(found))


@task(help={**WHICH, "all": "every variant that is locked"})
@expected
def check_facts(c: Context, cpu: bool = False, cuda: str = "", all: bool = False) -> None:
    """Measure in the wheels what is noted of torch's builds."""
    project = pipeline.open_project(ROOT)
    variants = pipeline.locked_variants(project) if all else [selected(cpu, cuda)[1]]
    for variant in variants:
        path = pipeline.torch_wheel(project, variant)
        print(reports.measured(variant.id, check(project.store, variant, path)))


@task(help={"json": "print one JSON object, each stage as GitHub's strategy.matrix takes it"})
@expected
def ci_matrix(c: Context, json: bool = False) -> None:
    """Show the CI matrix: stages, runners, disk, drivers."""
    found = committed.ci_matrix(pipeline.open_project(ROOT))
    print(as_json(ci.as_json(found)) if json else reports.matrix(found))


@task(
    name="lock",
    help={
        **WHICH,
        "base": "the Debian base",
        "all": "the base and every variant",
        "conda": "the conda environments of what is locked, and nothing else",
    },
)
@expected
def lock_(
    c: Context,
    cpu: bool = False,
    cuda: str = "",
    base: bool = False,
    all: bool = False,
    conda: bool = False,
) -> None:
    """Resolve versions anew and write the locks."""
    project = pipeline.open_project(ROOT)
    if conda:
        bootstrap.require_conda()
        chosen = pipeline.locked_variants(project) if all else [selected(cpu, cuda)[1]]
        locks, faults = conda_lock.lock_environments(project, chosen)
        for one in locks:
            print(conda_lock.shown(one))
        conda_lock.demand(faults)
        return
    variants = list(project.catalog.variants) if all else []
    if cpu or cuda:
        variants = [selected(cpu, cuda)[1]]
    if base or all:
        lock.lock_base(ROOT, project.catalog, project.environ)
    if not (variants or base):
        catalog.select(project.catalog, cpu=cpu, cuda=None)
    failures = lock.lock_variants(ROOT, project.catalog, variants, project.store, project.environ)
    # Where every lock that was asked for failed there is nothing new to render.
    if not failures or len(failures) < len(variants):
        render.write(ROOT, committed.rendered(project))
    lock.demand(failures)


@task(name="render", help={"check": "change nothing; print a diff and fail where a file differs"})
@expected
def render_(c: Context, check: bool = False) -> None:
    """Render Dockerfiles and specs from the locks."""
    project = pipeline.open_project(ROOT)
    files = committed.rendered(project)
    if not check:
        render.write(ROOT, files)
    elif diff := render.check(ROOT, files):
        print(diff, end="")
        what = "rendered files are not what their templates and locks give"
        raise DriftError(what, hint="./kiln render")
