"""What `--engine docker` and `--engine podman` mean for each command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchkiln import committed, pipeline
from torchkiln import smoke as smokes
from torchkiln import verify as verifies
from torchkiln.engine import buildkit
from torchkiln.engine import load as loads
from torchkiln.engine.connection import check_name, connect
from torchkiln.engine.containers import ContainerOptions, attach, container
from torchkiln.engine.images import find_made
from torchkiln.engine.images import push as push_image
from torchkiln.errors import DriftError
from torchkiln.image import REPOSITORY
from torchkiln.progress import say, waiting
from torchkiln.run import parse_mount
from torchkiln.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.catalog import Variant
    from torchkiln.engine.images import EngineImage
    from torchkiln.image import Image
    from torchkiln.pipeline import Project
    from torchkiln.run import RunOptions
    from torchkiln.smoke import SmokeReport
    from torchkiln.verify import VerifyReport


@dataclass(frozen=True, kw_only=True)
class EngineBuildReport:
    """What a build by an engine did; `smoke` is None where the suite was not asked for."""

    variant: str
    engine: str
    image: EngineImage
    seconds: dict[str, float]
    smoke: SmokeReport | None


def build(
    project: Project, variant: Variant, *, builder: str, with_smoke: bool, frozen: bool = False
) -> EngineBuildReport:
    """Build `variant` with BuildKit and, unless told not to, see that it trains."""
    watch = Stopwatch()
    path = f"images/{variant.id}/Dockerfile"
    if (project.root / path).read_text(encoding="utf-8") != committed.rendered(project)[path]:
        what = f"the Dockerfile is not what template and lock give: {path}"
        raise DriftError(what, hint="./kiln render")
    with connect("docker", project.environ) as engine:
        chosen = buildkit.find_builder(engine, builder)
        work = pipeline.prepare(project, variant, watch, frozen=frozen)
        image = buildkit.build(work, engine, chosen, watch)
        report = None
        if with_smoke:
            shown = f"running the smoke suite in `{image.reference}`"
            with watch.stage("smoke"), waiting(shown):
                report = smokes.smoke_in(engine, project.store, image)
        return EngineBuildReport(
            variant=variant.id,
            engine=engine.title,
            image=image,
            seconds=watch.seconds,
            smoke=report,
        )


def load(project: Project, image: Image, name: str) -> None:
    """Put an image of the store into an engine."""
    with connect(check_name(name), project.environ) as engine:
        loaded = loads.load(engine, project.store, image)
        say(f"loaded into {engine.title}: {loaded.reference}")


def smoke(project: Project, variant: Variant, name: str, gpus: str) -> SmokeReport:
    """Run the smoke suite in what an engine has of `variant`."""
    with connect(check_name(name), project.environ) as engine:
        image = find_made(engine, _reference(project, variant), variant.flag)
        return smokes.smoke_in(engine, project.store, image, gpus)


def verify(project: Project, variant: Variant, name: str, gpus: str) -> VerifyReport:
    """Assert what an engine's image of `variant` holds and promises."""
    with connect(check_name(name), project.environ) as engine:
        image = find_made(engine, _reference(project, variant), variant.flag)
        return verifies.verify_in(pipeline.job(project, variant), engine, image, gpus)


def run(
    project: Project,
    variant: Variant,
    name: str,
    argv: Sequence[str],
    *,
    options: RunOptions,
    gpus: str,
) -> int:
    """Run a command at this terminal in an engine's image of `variant`; return its exit code."""
    with connect(check_name(name), project.environ) as engine:
        image = find_made(engine, _reference(project, variant), variant.flag)
        settings = ContainerOptions(
            uid=options.uid,
            mounts=tuple(parse_mount(text) for text in options.mounts),
            network=options.network,
            gpus=gpus,
            interactive=options.interactive,
            init=True,
        )
        with container(engine, image, argv, settings) as made:
            return attach(engine, made, terminal=options.interactive)


def push(project: Project, variant: Variant, name: str, target: str) -> str:
    """Push an engine's image of `variant` to a registry and return its digest there."""
    with connect(check_name(name), project.environ) as engine:
        image = find_made(engine, _reference(project, variant), variant.flag)
        return push_image(engine, image, target)


def as_json(report: EngineBuildReport) -> dict[str, Any]:
    """Return the report as `build --json` prints it."""
    tested = report.smoke
    return {
        "variant": report.variant,
        "reference": report.image.reference,
        "engine": report.engine,
        "digest": report.image.id,
        "size": report.image.size,
        "layers": [{"diff_id": diff_id} for diff_id in report.image.diff_ids],
        "seconds": report.seconds,
        "smoke": tested and pipeline.smoke_as_json(tested),
    }


def _reference(project: Project, variant: Variant) -> str:
    return f"{REPOSITORY}:{pipeline.job(project, variant).tag}"
