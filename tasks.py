"""What `./kiln` can do: flags in, one call into `torchkiln`, results out. No logic lives here."""

from __future__ import annotations

import functools
import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from invoke.exceptions import Exit
from invoke.tasks import task

from torchkiln import bootstrap, catalog, commands, lock, pipeline, render, reports
from torchkiln.commands import BuildOptions, Where
from torchkiln.engine import commands as engines
from torchkiln.errors import DifferenceError, DriftError, KilnError, VerifyError
from torchkiln.image_archive import write_archive
from torchkiln.image_diff import as_json as diff_as_json
from torchkiln.image_diff import image_diff
from torchkiln.origin import read_image
from torchkiln.run import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from invoke.context import Context

    from torchkiln.catalog import Variant
    from torchkiln.pipeline import Project

ROOT = Path(__file__).resolve().parent
_WHICH = {
    "cpu": "the CPU variant",
    "cuda": "a CUDA variant: 117, 11.7 or cu117",
}
_WHERE = {
    "engine": "where it runs: kiln (the sandbox, by default), docker, podman",
    "gpus": "GPUs of Docker or Podman: all, or 0,1",
}
_Task = TypeVar("_Task", bound="Callable[..., Any]")


def _expected(function: _Task) -> _Task:
    """Show expected failures without a traceback, each with its own exit code."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - invoke's own signature
        # A batch system's way to say stop; like Ctrl-C, it must leave no container behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            return function(*args, **kwargs)
        except KilnError as error:
            raise Exit(str(error), error.exit_code) from error
        except KeyboardInterrupt:
            message = "stopped"
            raise Exit(message, 130) from None

    return wrapper  # type: ignore[return-value]


def _selected(cpu: bool, cuda: str) -> tuple[Project, Variant]:
    project = pipeline.open_project(ROOT)
    return project, catalog.select(project.catalog, cpu=cpu, cuda=cuda or None)


def _after_dashes() -> list[str]:
    """Return the words after `--` as the shell gave them; invoke joins them and loses quotes."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []


@task(name="lock", help={**_WHICH, "base": "the Debian base", "all": "the base and every variant"})
@_expected
def lock_(
    c: Context, cpu: bool = False, cuda: str = "", base: bool = False, all: bool = False
) -> None:
    """Resolve versions anew and write the locks."""
    project = pipeline.open_project(ROOT)
    variants = list(project.catalog.variants) if all else []
    if cpu or cuda:
        variants = [catalog.select(project.catalog, cpu=cpu, cuda=cuda or None)]
    if base or all:
        lock.lock_base(ROOT, project.catalog, project.environ)
    for variant in variants:
        lock.lock_variant(ROOT, project.catalog, variant, project.store, project.environ)
    if not (variants or base):
        catalog.select(project.catalog, cpu=cpu, cuda=None)
    render.write(ROOT, pipeline.rendered(project))


@task(name="render", help={"check": "change nothing; print a diff and fail where a file differs"})
@_expected
def render_(c: Context, check: bool = False) -> None:
    """Render Dockerfiles and specs from the locks."""
    project = pipeline.open_project(ROOT)
    files = pipeline.rendered(project)
    if not check:
        render.write(ROOT, files)
    elif diff := render.check(ROOT, files):
        print(diff, end="")
        what = "rendered files are not what their templates and locks give"
        raise DriftError(what, hint="./kiln render")


@task(help=_WHICH)
@_expected
def fetch(c: Context, cpu: bool = False, cuda: str = "") -> None:
    """Bring all inputs of a variant into the store."""
    report = pipeline.fetch_inputs(*_selected(cpu, cuda))
    print(reports.fetched(report))


@task(
    optional=["load"],
    help={
        **_WHICH,
        "engine": "what builds: kiln (by default), or docker (BuildKit, from the Dockerfile)",
        "builder": "the builder of buildx that the engine docker uses",
        "load": "put the image into Docker; --load=podman: into Podman",
        "smoke": "run the smoke suite on the image (default)",
        "verify": "build again from nothing in a second store and compare",
        "json": "print one JSON object on stdout",
    },
)
@_expected
def build(
    c: Context,
    cpu: bool = False,
    cuda: str = "",
    engine: str = "kiln",
    builder: str = "",
    load: str | bool = "",
    smoke: bool = True,
    verify: bool = False,
    json: bool = False,
) -> None:
    """Build an image from its lock and see that it trains."""
    project, variant = _selected(cpu, cuda)
    into = "docker" if load is True else load or ""
    options = BuildOptions(engine=engine, builder=builder, load=into, smoke=smoke, verify=verify)
    report = commands.build(project, variant, options)
    print(reports.as_json(report) if json else reports.built(report))


@task(help={**_WHICH, **_WHERE, "json": "print the suite's report"})
@_expected
def smoke(
    c: Context,
    cpu: bool = False,
    cuda: str = "",
    engine: str = "kiln",
    gpus: str = "",
    json: bool = False,
) -> None:
    """Run the smoke suite in an image."""
    report = commands.smoke(*_selected(cpu, cuda), Where(engine=engine, gpus=gpus))
    print(_json(report.document) if json else report.table)


@task(name="verify", help={**_WHICH, **_WHERE})
@_expected
def verify_(
    c: Context, cpu: bool = False, cuda: str = "", engine: str = "kiln", gpus: str = ""
) -> None:
    """Assert what an image holds and promises."""
    print(commands.verify(*_selected(cpu, cuda), Where(engine=engine, gpus=gpus)).output)


@task(
    iterable=["mount"],
    help={
        **_WHICH,
        **_WHERE,
        "mount": "a folder of the host, HOST[:TARGET][:rw], more than once",
        "network": "let the command use the network",
        "uid": "the user id that it runs as",
    },
)
@_expected
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
    _exit(commands.run(*_selected(cpu, cuda), where, _after_dashes(), options))


@task(iterable=["mount"], help=run.help)
@_expected
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
    options = RunOptions(mounts=tuple(mount), network=network, uid=uid, interactive=True)
    where = Where(engine=engine, gpus=gpus)
    _exit(commands.run(*_selected(cpu, cuda), where, ["/bin/bash"], options))


def _exit(code: int) -> None:
    """End with the exit code of a command that ran, without a word."""
    if code:
        message = ""
        raise Exit(message, code)


@task(
    positional=["first", "second"],
    help={
        "first": "an image: cpu@kiln, cpu@docker, debian:bookworm@podman, a layout, an archive",
        "second": "another",
        "json": "print all differences as one JSON object",
    },
)
@_expected
def diff(c: Context, first: str, second: str, json: bool = False) -> None:
    """Compare two images path by path, wherever they are."""
    project = pipeline.open_project(ROOT)
    found = image_diff(read_image(project, first), read_image(project, second))
    print(_json(diff_as_json(found)) if json else reports.compared(found, first, second))
    if not found.same:
        what = f"the images differ: `{first}` and `{second}`"
        raise DifferenceError(what)


@task(
    help={
        **_WHICH,
        "engine": "which engine's image: docker (by default), podman",
        "to": "its name there: REGISTRY/REPOSITORY:TAG",
    }
)
@_expected
def push(c: Context, to: str, cpu: bool = False, cuda: str = "", engine: str = "docker") -> None:
    """Push an engine's image to a registry and print its digest there."""
    project, variant = _selected(cpu, cuda)
    print(f"{to}@{engines.push(project, variant, engine, to)}")


@task(help={**_WHICH, "output": "the archive's path, - for stdout"})
@_expected
def export(c: Context, output: str, cpu: bool = False, cuda: str = "") -> None:
    """Write an image as an archive for `docker load`."""
    project, variant = _selected(cpu, cuda)
    image = pipeline.built_image(project, variant)
    if output == "-":
        write_archive(image.layout, sys.stdout.buffer)
    else:
        reports.write_file(Path(output), lambda stream: write_archive(image.layout, stream))


@task(
    iterable=["variant", "arm"],
    help={
        "variant": "a variant to measure, more than once (default: cpu and cu117)",
        "arm": "an arm to measure, more than once (default: all)",
        "rounds": "how often each build is measured; medians are reported",
        "add": "add the runs to those in benchmarks/results.json",
    },
)
@_expected
def bench(
    c: Context, variant: list[str], arm: list[str], rounds: int = 3, add: bool = False
) -> None:
    """Measure builds side by side with what people use today. Takes hours."""
    bench_ = importlib.import_module("benchmarks.bench")
    project = pipeline.open_project(ROOT)
    variants = [project.catalog.variant(name) for name in variant or ("cpu", "cu117")]
    print(bench_.run(project, variants, rounds=rounds, only=arm, add=add))


@task(
    help={
        "only": "a pytest expression (-k) that selects tests",
        "path": "a folder of tests",
        "slow": "the tests that take minutes too",
    }
)
@_expected
def test(c: Context, only: str = "", path: str = "tests", slow: bool = False) -> None:
    """Run all tests and name those that cannot run here."""
    bootstrap.require_dev()
    command = [sys.executable, "-m", "pytest", path]
    command += [*(["-k", only] if only else []), *(["--slow"] if slow else [])]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        what = "tests failed"
        raise VerifyError(what)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True)
