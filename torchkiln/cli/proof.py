"""Tasks on an image's documents: what it holds, what it was made from, why a package is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from torchkiln import exchange, pipeline
from torchkiln.cli.flags import ROOT, WHICH, as_json, expected, selected
from torchkiln.cli.registry import PLAIN
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
        "image": "an image in a registry, in place of a variant: REGISTRY/REPOSITORY[:TAG]",
        "key": "the public key that must have signed its SBOM",
        "plain-http": PLAIN,
        "json": "print one JSON object",
    },
)
@expected
def explain(
    c: Context,
    package: str,
    cpu: bool = False,
    cuda: str = "",
    image: str = "",
    key: str = "",
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Say why a package is in an image."""
    if image:
        document = exchange.attached_sbom(
            pipeline.open_project(ROOT), image, key=key, plain=plain_http
        )
    else:
        project, variant = selected(cpu, cuda)
        built = pipeline.built_image(project, variant)
        document = sbom_of(pipeline.job(project, variant), built)
    found = explains.explain(document, package)
    print(as_json(explains.as_json(found)) if json else reports.explained(found))
