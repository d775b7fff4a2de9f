"""Tasks for sites without a network: all that a build needs, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from torchkiln import bundle as bundles
from torchkiln import bundle_loader, catalog, pipeline
from torchkiln.cli.flags import ROOT, as_json, expected
from torchkiln.progress import say
from torchkiln.reports import megabytes

if TYPE_CHECKING:
    from invoke.context import Context

    from torchkiln.catalog import Variant
    from torchkiln.pipeline import Project


@task(
    iterable=["cuda"],
    help={
        "output": "the bundle's path",
        "cpu": "the CPU variant",
        "cuda": "a CUDA variant, more than once: 117, 11.7 or cu117",
        "all": "every variant that is locked",
        "inputs-only": "leave out what is built: the site builds it itself",
        "json": "print one JSON object",
    },
)
@expected
def bundle(
    c: Context,
    output: str,
    cuda: list[str],
    cpu: bool = False,
    all: bool = False,
    inputs_only: bool = False,
    json: bool = False,
) -> None:
    """Write one file for a site without a network."""
    project = pipeline.open_project(ROOT)
    made = bundles.bundle(
        project,
        _chosen(project, cpu=cpu, cuda=cuda, everything=all),
        Path(output),
        inputs_only=inputs_only,
    )
    say(f"there: `tar -xf {made.path.name} load`, then `./load {made.path.name} torchkiln`")
    print(as_json(bundles.as_json(made)) if json else f"{made.sha256}  {made.path}")


@task(positional=["file"], help={"file": "what `bundle` wrote"})
@expected
def load_bundle(c: Context, file: str) -> None:
    """Take a bundle into the store; print what can be built."""
    project = pipeline.open_project(ROOT)
    loaded = bundle_loader.load(project, Path(file))
    say(f"{megabytes(loaded.received)} came, {megabytes(loaded.present)} were there")
    for lock in loaded.other_locks:
        say(f"warning: this Torchkiln has another lock than the bundle: {lock}")
    for name in loaded.index.variants:
        print(f"./kiln build {project.catalog.variant(name).flag}")


def _chosen(project: Project, *, cpu: bool, cuda: list[str], everything: bool) -> list[Variant]:
    """Return the variants that the flags name."""
    if everything:
        return list(pipeline.locked_variants(project))
    chosen = [catalog.select(project.catalog, cpu=False, cuda=one) for one in cuda]
    if cpu or not cuda:
        chosen.insert(0, catalog.select(project.catalog, cpu=cpu, cuda=None))
    return list(dict.fromkeys(chosen))
