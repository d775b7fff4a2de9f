"""Tasks on an image's documents: what it holds, what it was made from, why a package is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from torchkiln import pipeline
from torchkiln.cli.flags import WHICH, as_json, expected, selected
from torchkiln.proof import explain as explains
from torchkiln.proof import reports
from torchkiln.proof.provenance import provenance as statement_of
from torchkiln.proof.sbom import sbom as sbom_of

if TYPE_CHECKING:
    from invoke.context import Context


@task(help=WHICH)
@expected
def sbom(c: Context, cpu: bool = False, cuda: str = "") -> None:
    """Print what an image holds, as CycloneDX JSON."""
    project, variant = selected(cpu, cuda)
    image = pipeline.built_image(project, variant)
    print(as_json(sbom_of(pipeline.job(project, variant), image)))


@task(help=WHICH)
@expected
def provenance(c: Context, cpu: bool = False, cuda: str = "") -> None:
    """Print what an image was made from, as an in-toto statement."""
    project, variant = selected(cpu, cuda)
    image = pipeline.built_image(project, variant)
    print(as_json(statement_of(pipeline.job(project, variant), image)))


@task(
    positional=["package"],
    help={
        **WHICH,
        "package": "a wheel, a Debian package, an import, a command, or an absolute path",
        "json": "print one JSON object",
    },
)
@expected
def explain(
    c: Context, package: str, cpu: bool = False, cuda: str = "", json: bool = False
) -> None:
    """Say why a package is in an image: `explain --cpu numpy`."""
    project, variant = selected(cpu, cuda)
    image = pipeline.built_image(project, variant)
    found = explains.explain(sbom_of(pipeline.job(project, variant), image), package)
    print(as_json(explains.as_json(found)) if json else reports.explained(found))
