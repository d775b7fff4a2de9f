"""Tasks on registries: push and pull, with no daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from torchkiln import exchange, pipeline
from torchkiln import registry_reports as reports
from torchkiln.cli.flags import ROOT, WHICH, as_json, expected, selected
from torchkiln.engine import commands as engines
from torchkiln.export import formats
from torchkiln.export.formats import FORMATS, Source, find_format

if TYPE_CHECKING:
    from invoke.context import Context

PLAIN = "speak http to a registry that is not on this machine"


@task(
    help={
        **WHICH,
        "to": "where to: REGISTRY/REPOSITORY, or with a :TAG of your own",
        "key": "sign with this private key: cosign's, or PEM of PKCS #8 (ECDSA on P-256)",
        "engine": "whose image: kiln (from the store, by default), docker, podman",
        "plain-http": PLAIN,
        "cache": "offer its layers to `build --cache-from` there (default)",
        "frozen": "fail where the base has drifted from its lock",
        "json": "print one JSON object",
    }
)
@expected
def push(
    c: Context,
    to: str,
    cpu: bool = False,
    cuda: str = "",
    key: str = "",
    engine: str = "kiln",
    plain_http: bool = False,
    cache: bool = True,
    frozen: bool = False,
    json: bool = False,
) -> None:
    """Push an image to a registry; print its digest."""
    project, variant = selected(cpu, cuda)
    if engine != "kiln":
        print(f"{to}@{engines.push(project, variant, engine, to)}")
        return
    pushed = exchange.push(
        project, variant, to, key=key, plain=plain_http, cache=cache, frozen=frozen
    )
    print(as_json(reports.pushed_as_json(pushed)) if json else reports.pushed(pushed))


@task(
    optional=["load"],
    positional=["image"],
    help={
        "image": "REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST]",
        "layout": "a new folder for the image as an OCI layout",
        "load": "put the image into Docker; --load=podman: into Podman",
        "format": f"write it as one of {', '.join(FORMATS)}, as `export` does",
        "output": "where to, with `--format`",
        "plain-http": PLAIN,
        "json": "print one JSON object",
    },
)
@expected
def pull(
    c: Context,
    image: str,
    layout: str = "",
    load: str | bool = "",
    format: str = "",
    output: str = "",
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Pull an image into the store; print its digest."""
    if format:
        find_format(format, output)
    project = pipeline.open_project(ROOT)
    pulled = exchange.pull(project, image, plain=plain_http, unpack=bool(format))
    if layout:
        exchange.copy_layout(project, pulled.image, Path(layout))
    if load:
        engines.load(project, pulled.image, "docker" if load is True else str(load))
    if format:
        formats.export(Source(store=project.store, image=pulled.image), format, output)
    print(as_json(reports.pulled_as_json(pulled)) if json else reports.pulled(pulled))
