"""Tasks on images: fetch, build, test, run, compare, hand on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.exceptions import Exit
from invoke.tasks import task

from torchkiln import build_all, commands, exchange, pipeline, registry_reports, reports
from torchkiln import bundle as bundles
from torchkiln import check_contract as contracts
from torchkiln.cli.flags import (
    FROZEN,
    ROOT,
    WHERE,
    WHICH,
    after_dashes,
    as_json,
    expected,
    selected,
)
from torchkiln.cli.registry import PLAIN
from torchkiln.commands import BuildOptions, Where
from torchkiln.errors import CatalogError, DifferenceError, VerifyError
from torchkiln.export import formats
from torchkiln.export.formats import FORMATS, Source, find_format
from torchkiln.image_diff import as_json as diff_as_json
from torchkiln.image_diff import image_diff
from torchkiln.layer_cache import caches
from torchkiln.origin import read_image
from torchkiln.run import RunOptions

if TYPE_CHECKING:
    from invoke.context import Context


@task(help={**WHICH, "frozen": FROZEN})
@expected
def fetch(c: Context, cpu: bool = False, cuda: str = "", frozen: bool = False) -> None:
    """Bring all inputs of images and environments into the store."""
    report = pipeline.fetch_inputs(*selected(cpu, cuda), with_kernel=True, frozen=frozen)
    print(reports.fetched(report))


@task(
    optional=["load"],
    iterable=["cache_from"],
    help={
        **WHICH,
        "base": "the Debian base alone, on which all images stand",
        "all": "every variant that is locked",
        "only": "of these, those whose id fits a pattern: 'cu12*'",
        "jobs": "how many variants at a time",
        "engine": "what builds: kiln (by default), or docker (BuildKit, from the Dockerfile)",
        "builder": "the builder of buildx that the engine docker uses",
        "load": "put the image into Docker; --load=podman: into Podman",
        "smoke": "run the smoke suite on the image (default)",
        "cache-from": "take layers that REGISTRY/REPOSITORY has, checked; more than once",
        "plain-http": "speak http to a cache that is not on this machine",
        "frozen": FROZEN,
        "verify": "build again from nothing in a second store and compare",
        "json": "print one JSON object on stdout; with --all a list of them",
    },
)
@expected
def build(
    c: Context,
    cache_from: list[str],
    cpu: bool = False,
    cuda: str = "",
    base: bool = False,
    all: bool = False,
    only: str = "",
    jobs: int = 1,
    engine: str = "kiln",
    builder: str = "",
    load: str | bool = "",
    smoke: bool = True,
    verify: bool = False,
    plain_http: bool = False,
    frozen: bool = False,
    json: bool = False,
) -> None:
    """Build images from their locks and see that they train."""
    into = "docker" if load is True else load or ""
    options = BuildOptions(
        engine=engine,
        builder=builder,
        load=into,
        smoke=smoke,
        verify=verify,
        caches=caches(cache_from, plain=plain_http),
        frozen=frozen,
    )
    if base:
        layer = pipeline.build_base_alone(pipeline.open_project(ROOT), frozen=frozen)
        print(f"sha256:{layer.diff_id}")
        return
    if not (all or only):
        report = commands.build(*selected(cpu, cuda), options)
        print(reports.as_json(report) if json else reports.built(report))
        return
    if cpu or cuda:
        what = "give one of `--cpu`, `--cuda` and `--all`, not more"
        raise CatalogError(what, hint="./kiln build --all --only 'cu12*'")
    project = pipeline.open_project(ROOT)
    chosen = build_all.choose(project, only or "*")
    outcomes = build_all.build_all(project, chosen, options, max(1, jobs))
    print(as_json(reports.built_all_as_json(outcomes)) if json else reports.built_all(outcomes))
    _exit(build_all.exit_code(outcomes))


@task(help={**WHICH, **WHERE, "json": "print the suite's report"})
@expected
def smoke(
    c: Context,
    cpu: bool = False,
    cuda: str = "",
    engine: str = "kiln",
    gpus: str = "",
    json: bool = False,
) -> None:
    """Run the smoke suite in an image."""
    report = commands.smoke(*selected(cpu, cuda), Where(engine=engine, gpus=gpus))
    print(as_json(report.document) if json else report.table)


@task(
    name="verify",
    help={
        **WHICH,
        **WHERE,
        "image": "an image in a registry, in place of a variant: REGISTRY/REPOSITORY[:TAG]",
        "key": "the public key that must have signed it",
        "rebuild": "build it again from its own provenance and compare the layers",
        "plain-http": PLAIN,
        "json": "print one JSON object on an image in a registry",
    },
)
@expected
def verify_(
    c: Context,
    cpu: bool = False,
    cuda: str = "",
    image: str = "",
    engine: str = "kiln",
    gpus: str = "",
    key: str = "",
    rebuild: bool = False,
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Assert what an image holds and promises, and who says so."""
    if image:
        project = pipeline.open_project(ROOT)
        found = exchange.verify(project, image, key=key, rebuild=rebuild, plain=plain_http)
        shown = registry_reports.verified_as_json(found) if json else None
        print(as_json(shown) if shown else registry_reports.verified(found))
        return
    print(commands.verify(*selected(cpu, cuda), Where(engine=engine, gpus=gpus)).output)


@task(
    iterable=["mount"],
    help={
        **WHICH,
        **WHERE,
        "mount": "a folder of the host, HOST[:TARGET][:rw], more than once",
        "network": "let the command use the network",
        "uid": "the user id that it runs as",
    },
)
@expected
def run(
    c: Context,
    mount: list[str],
    cpu: bool = False,
    cuda: str = "",
    engine: str = "kiln",
    gpus: str = "",
    network: bool = False,
    uid: int = 1000,
) -> None:
    """Run a command in an image: `run --cpu -- COMMAND`."""
    options = RunOptions(mounts=tuple(mount), network=network, uid=uid)
    where = Where(engine=engine, gpus=gpus)
    _exit(commands.run(*selected(cpu, cuda), where, after_dashes(), options))


@task(iterable=["mount"], help=run.help)
@expected
def shell(
    c: Context,
    mount: list[str],
    cpu: bool = False,
    cuda: str = "",
    engine: str = "kiln",
    gpus: str = "",
    network: bool = False,
    uid: int = 1000,
) -> None:
    """Start a shell in an image."""
    # Commands that come through a pipe need no terminal, and engines refuse them one.
    terminal = os.isatty(0)
    options = RunOptions(mounts=tuple(mount), network=network, uid=uid, interactive=terminal)
    where = Where(engine=engine, gpus=gpus)
    _exit(commands.run(*selected(cpu, cuda), where, ["/bin/bash"], options))


def _exit(code: int) -> None:
    """End with the exit code of a command that ran, without a word."""
    if code:
        message = ""
        raise Exit(message, code)


@task(
    positional=["first", "second"],
    help={
        "first": "an image: cpu@kiln, debian:bookworm@docker, ghcr.io/org/torch:cpu, a path",
        "second": "another",
        "json": "print all differences as one JSON object",
    },
)
@expected
def diff(c: Context, first: str, second: str, json: bool = False) -> None:
    """Compare two images path by path, wherever they are."""
    project = pipeline.open_project(ROOT)
    found = image_diff(read_image(project, first), read_image(project, second))
    print(as_json(diff_as_json(found)) if json else reports.compared(found, first, second))
    if not found.same:
        what = f"the images differ: `{first}` and `{second}`"
        raise DifferenceError(what)


@task(
    positional=["image"],
    help={
        "image": "an image: cpu@kiln, debian:bookworm@docker, ghcr.io/org/torch:cpu, a path",
        "json": "print all faults as one JSON object",
    },
)
@expected
def check_contract(c: Context, image: str, json: bool = False) -> None:
    """Check any image against the contract's 12 points."""
    report = contracts.check(read_image(pipeline.open_project(ROOT), image))
    print(as_json(contracts.as_json(report, image)) if json else contracts.shown(report))
    if report.failed:
        what = f"`{image}` does not run everywhere: {', '.join(report.failed)}"
        raise VerifyError(what)


@task(
    help={
        **WHICH,
        "output": "where to write it, - for stdout where the format is an archive",
        "format": ", ".join((*FORMATS, "bundle")),
    }
)
@expected
def export(
    c: Context, output: str, cpu: bool = False, cuda: str = "", format: str = "oci-archive"
) -> None:
    """Write an image as a file or folder for clusters."""
    if format == "bundle":
        project, variant = selected(cpu, cuda)
        made = bundles.bundle(project, [variant], Path(output))
        print(f"{made.sha256}  {made.path}")
        return
    find_format(format, output)  # now, because what follows may build the image
    project, variant = selected(cpu, cuda)
    image = pipeline.built_image(project, variant)
    formats.export(Source(store=project.store, image=image), format, output)
