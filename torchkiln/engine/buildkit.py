"""The engine `docker`: BuildKit builds the rendered Dockerfile, from what is in the store.

The locked Debian and the fetched wheels go in as named contexts, in the place of the two stages
that would use a network. All else is the Dockerfile's, also the one time that all files get, so
that nothing is left for the exporter to rewrite (its `rewrite-timestamp` compresses each layer a
second time, and Docker's own BuildKit refuses it).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from torchkiln.base import build_base
from torchkiln.config import base_config, labels
from torchkiln.dockerfile import TOOLS
from torchkiln.engine.images import arriving, failure, find
from torchkiln.engine.load import load
from torchkiln.engine.watch import watched
from torchkiln.errors import EngineError
from torchkiln.files import link_or_copy
from torchkiln.image import REPOSITORY, write_image
from torchkiln.plan import plan_layers
from torchkiln.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.engine.connection import Engine
    from torchkiln.engine.images import EngineImage
    from torchkiln.engine.job import Job
    from torchkiln.stopwatch import Stopwatch

_OLDEST_DOCKER: Final = 23
"""Its BuildKit (0.11) is the first with named contexts from layouts and heredocs built in."""

_SHOWN: Final = 25  # lines of BuildKit's output that an error holds
_REPLY: Final = 60  # seconds for buildx to say what it is
_KILL: Final = 10  # seconds for a build that is stopped to end


@dataclass(frozen=True, kw_only=True)
class Builder:
    """A builder of buildx: `name` is empty for the one that the user has chosen."""

    name: str
    driver: str

    @property
    def option(self) -> list[str]:
        """Return the option that names it."""
        return ["--builder", self.name] if self.name else []


def find_builder(engine: Engine, name: str) -> Builder:
    """Return the builder `name` ("": the chosen one); what cannot build raises `EngineError`."""
    _check_buildx(engine)
    done = _output(engine, engine.command("buildx", "inspect", *([name] if name else [])))
    found = re.search(r"^Driver:\s+(\S+)", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        what = f"buildx cannot use the builder `{name or 'default'}`"
        raise EngineError(what, done.stderr.strip(), "docker buildx ls")
    driver = found[1]
    if driver == "docker" and name:
        what = f"the builder `{name}` is a Docker engine, where the image would stay"
        raise EngineError(what, hint=f"DOCKER_CONTEXT={name} ./kiln build --engine docker")
    if driver == "docker" and int(engine.version.split(".")[0]) < _OLDEST_DOCKER:
        what = f"{engine.title} is too old to build the Dockerfile"
        why = f"it takes Docker {_OLDEST_DOCKER} or newer, or a builder with BuildKit 0.11 or newer"
        hint = "build with `--load`, which needs no BuildKit, or with `--builder NAME`"
        raise EngineError(what, why, hint)
    return Builder(name=name, driver=driver)


def _check_buildx(engine: Engine) -> None:
    if _output(engine, engine.command("buildx", "version")).returncode:
        what = "Docker's command line has no buildx"
        raise EngineError(what, hint="sudo apt-get install docker-buildx-plugin, or docker-buildx")


def build(job: Job, engine: Engine, builder: Builder, watch: Stopwatch) -> EngineImage:
    """Build the image of `job` with BuildKit and return it; it is in the engine then."""
    reference = f"{REPOSITORY}:{job.tag}"
    with watch.stage("base"):
        base = _base_context(job, engine, builder)
    with watch.stage("build"), job.store.workspace() as workspace:
        _fill_wheelhouse(job, workspace)
        with arriving(engine, reference) as name:
            say(f"building `{job.variant.id}` with {engine.title}")
            _buildx(job, engine, [*builder.option, *_arguments(job, base, workspace, name)])
    image = find(engine, reference)
    if image is None:
        what = f"the image is not in {engine.title}"
        raise EngineError(what, "BuildKit says that it was built", "docker buildx ls")
    return image


def _base_context(job: Job, engine: Engine, builder: Builder) -> str:
    """Return the locked Debian as a named context."""
    layer = build_base(job.store, job.base_lock)
    name = f"debian-{job.base_lock.release}"
    base = write_image(job.store, name, [layer], base_config(job.base_lock))
    if builder.driver == "docker" and not engine.containerd:
        # BuildKit in Docker's own image store reads no layouts; images of the engine it does.
        return f"docker-image://{load(engine, job.store, base).reference}"
    return f"oci-layout://{base.layout}@sha256:{base.digest}"


def _fill_wheelhouse(job: Job, folder: Path) -> None:
    """Put the wheels into a folder for each layer, as the Dockerfile's stage has them."""
    wheelhouse = folder / "wheelhouse"
    for group in plan_layers(job.lock):
        (wheelhouse / group.folder).mkdir(parents=True)
        for wheel in group.wheels:
            path = job.store.checked(wheel.sha256, wheel.file)
            link_or_copy(path, wheelhouse / group.folder / wheel.file)
    ignore = shutil.ignore_patterns("__pycache__")
    installer = Path(str(files("installer")))
    shutil.copytree(installer, wheelhouse / TOOLS / "installer", ignore=ignore)


def _arguments(job: Job, base: str, workspace: Path, name: str) -> list[str]:
    epoch = int(datetime.fromisoformat(job.base_lock.date.replace("Z", "+00:00")).timestamp())
    contexts = {
        "base": base,
        "wheelhouse": workspace,
        "smoke": job.project / "smoke",
        "doctor": job.project / "torchkiln",
    }
    return [
        *(word for pair in contexts.items() for word in ("--build-context", "{}={}".format(*pair))),
        *("--build-arg", f"SOURCE_DATE_EPOCH={epoch}"),
        *(word for label in _labels(job) for word in ("--label", label)),
        *("--network", "none"),
        *("--tag", name, "--load"),
        str(job.project / "images" / job.variant.id),
    ]


def _labels(job: Job) -> list[str]:
    """Return the labels that are not the Dockerfile's: it is rendered from the project's lock."""
    if not job.base_lock.drifted:
        return []
    found = labels(job.base, job.variant, job.lock, job.base_lock)
    return [f"{name}={value}" for name, value in sorted(found.items())]


def _buildx(job: Job, engine: Engine, arguments: list[str]) -> None:
    """Run `docker buildx build`; on a terminal it draws its own progress."""
    terminal = sys.stderr.isatty()
    command = engine.command("buildx", "build", *([] if terminal else ["--progress=plain"]))
    # An attestation holds times of the build; provenance of our own comes with the publishing.
    environ = {**engine.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    with tempfile.TemporaryFile() as log:
        output = None if terminal else log
        with _process([*command, *arguments], environ, output) as process:
            code = watched(engine, process.wait)
        if code:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()[-_SHOWN:]
            raise _failure(job, engine, "\n".join(lines) or "see above")


def _failure(job: Job, engine: Engine, why: str) -> EngineError:
    if engine.answers():
        return failure(engine, f"the Dockerfile of `{job.variant.id}` was not built", why)
    what = f"{engine.title} went away while it built `{job.variant.id}`"
    return EngineError(what, why, "start it again, then build again: what it finished is kept")


@contextmanager
def _process(
    command: list[str], environ: dict[str, str], output: BinaryIO | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that does not outlive the block: BuildKit stops what nobody waits for."""
    process = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=output or sys.stderr,
        stderr=output or sys.stderr,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_KILL)
            except subprocess.TimeoutExpired:
                process.kill()


def _output(engine: Engine, command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, env=engine.environ, capture_output=True, text=True, check=False, timeout=_REPLY
        )
    except subprocess.TimeoutExpired:
        what = f"no answer within {_REPLY} s: `{' '.join(command)}`"
        raise EngineError(what) from None
