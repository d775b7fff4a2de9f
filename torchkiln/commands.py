"""The commands that can run on more than one engine: which one, and what it is asked.

`kiln` is the engine that needs no daemon: it assembles images and runs them in the sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchkiln import pipeline, reproduce
from torchkiln import run as runs
from torchkiln import smoke as smokes
from torchkiln import verify as verifies
from torchkiln.engine import commands as engines
from torchkiln.errors import EngineError, SandboxError
from torchkiln.pipeline import Supply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.catalog import Variant
    from torchkiln.engine.commands import EngineBuildReport
    from torchkiln.layer_cache import Caches
    from torchkiln.pipeline import BuildReport, Project
    from torchkiln.run import RunOptions
    from torchkiln.smoke import SmokeReport
    from torchkiln.verify import VerifyReport


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build; `builder` and `load` are empty where none is named."""

    engine: str = "kiln"
    builder: str = ""
    load: str = ""
    smoke: bool = True
    verify: bool = False
    caches: Caches | None = None
    frozen: bool = False


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a command runs: `kiln`, `docker` or `podman`, and with which of the engine's GPUs."""

    engine: str = "kiln"
    gpus: str = ""

    @property
    def in_sandbox(self) -> bool:
        """Tell whether it is the sandbox; there, GPUs cannot be chosen."""
        if self.engine == "kiln" and self.gpus:
            what = "`--gpus` is for Docker and Podman"
            raise SandboxError(what, "the sandbox passes every GPU of this machine by itself")
        return self.engine == "kiln"


def build(
    project: Project, variant: Variant, options: BuildOptions
) -> BuildReport | EngineBuildReport:
    """Build `variant`, test it, and put it where it is wanted."""
    _check(options)
    if options.engine == "docker":
        return engines.build(
            project,
            variant,
            builder=options.builder,
            with_smoke=options.smoke,
            frozen=options.frozen,
        )
    supply = Supply(caches=options.caches, frozen=options.frozen)
    report = pipeline.build(project, variant, with_smoke=options.smoke, supply=supply)
    if options.verify:
        reproduce.rebuild_and_compare(project, variant, report.image)
    if options.load:
        engines.load(project, report.image, options.load)
    return report


def _check(options: BuildOptions) -> None:
    """Refuse options that do not go together."""
    if options.engine not in {"kiln", "docker"}:
        what = f"no engine `{options.engine}` builds images"
        raise EngineError(what, "there are: kiln, docker", "./kiln build --cpu --load=podman")
    if options.engine == "docker" and (options.load or options.verify):
        what = "`--load` and `--verify` are for the engine `kiln`"
        raise EngineError(what, "what the engine `docker` builds is in Docker")
    if options.engine == "docker" and options.caches:
        what = "`--cache-from` is for the engine `kiln`"
        raise EngineError(what, "BuildKit keeps a cache of its own")
    if options.engine == "kiln" and options.builder:
        what = "`--builder` is for the engine `docker`"
        raise EngineError(what, hint=f"./kiln build --engine docker --builder {options.builder}")


def smoke(project: Project, variant: Variant, where: Where) -> SmokeReport:
    """Run the smoke suite in the image of `variant`."""
    if where.in_sandbox:
        return smokes.smoke(project.store, pipeline.built_image(project, variant))
    return engines.smoke(project, variant, where.engine, where.gpus)


def verify(project: Project, variant: Variant, where: Where) -> VerifyReport:
    """Assert what the image of `variant` holds and promises."""
    if where.in_sandbox:
        image = pipeline.built_image(project, variant)
        pipeline.fetch_wheels(project, variant)  # their own RECORDs are compared with
        return verifies.verify(pipeline.job(project, variant), image)
    return engines.verify(project, variant, where.engine, where.gpus)


def run(
    project: Project, variant: Variant, where: Where, argv: Sequence[str], options: RunOptions
) -> int:
    """Run a command in the image of `variant` and return its exit code."""
    if not argv:
        what = "no command to run"
        raise SandboxError(what, hint="./kiln run --cpu -- python --version")
    if where.in_sandbox:
        image = pipeline.built_image(project, variant)
        return runs.run(project.store, image, argv, options)
    return engines.run(project, variant, where.engine, argv, options=options, gpus=where.gpus)
