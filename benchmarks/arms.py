"""The builders that are measured: kiln, our Dockerfile on BuildKit, and the recipes of others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from uv import find_uv_bin

from benchmarks.measure import Cost, measured
from benchmarks.peers import PEERS, Peer
from benchmarks.sizes import LayerSize, engine_layers
from benchmarks.wheelset import link_wheels, write_lock
from torchkiln import committed, pipeline, render
from torchkiln.base import build_base
from torchkiln.store import Store, remove_tree

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.wheelset import WheelSet
    from torchkiln.catalog import Variant
    from torchkiln.engine.connection import Engine

_COPIED: Final = ("envs", "images", "smoke", "templates", "torchkiln", "tasks.py")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all arms share: a variant, its inputs in `store`, a folder to work in, an engine."""

    project: Path
    work: Path
    store: Store
    variant: Variant
    engine: Engine
    sets: tuple[WheelSet, ...]

    def inputs(self) -> set[str]:
        """Return the hashes of all wheels of all sets and of the base's packages."""
        debs = pipeline.job(pipeline.open_project(self.project), self.variant).base_lock.debs
        wheels = {wheel.sha256 for one in self.sets for wheel in one.lock.wheels}
        return wheels | {deb.sha256 for deb in debs}


class Arm(Protocol):
    """A builder: `id` names it in results; `downloads` tells whether its first build does."""

    id: str
    downloads: bool

    def clear(self) -> None:
        """Forget everything but downloads."""

    def build(self, wheels: WheelSet) -> Cost:
        """Build the image of these wheels and return what it cost."""

    def layers(self) -> list[LayerSize]:
        """Return the layers of the image that was built last."""


class KilnArm:
    """`kiln build`, with a store that holds the inputs."""

    id = "kiln"
    downloads = False
    options: tuple[str, ...] = ()

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.project = bench.work / f"{self.id}-project"
        self.home = bench.work / f"{self.id}-home"
        remove_tree(self.project)
        self.project.mkdir(parents=True)
        for name in _COPIED:
            source, target = bench.project / name, self.project / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)

    def clear(self) -> None:
        """Begin with a store that holds inputs alone."""
        remove_tree(self.home)
        store = Store(self.home)
        store.make(store.blobs)
        for sha256 in self.bench.inputs():
            os.link(self.bench.store.blob(sha256), store.blob(sha256))

    def build(self, wheels: WheelSet) -> Cost:
        """Build from a copy of the project whose lock names these wheels."""
        write_lock(wheels.lock, self.project)
        opened = pipeline.open_project(self.project, self.environ)
        render.write(self.project, committed.rendered(opened))
        return measured(self._command("--no-smoke", *self.options), self.environ, self.project)

    def layers(self) -> list[LayerSize]:
        """Return the layers that `build --json` names."""
        done = subprocess.run(
            self._command("--no-smoke", "--json"),
            env=self.environ,
            cwd=self.project,
            capture_output=True,
            check=True,
        )
        return [
            LayerSize(digest=one["digest"], compressed=one["size"], unpacked=one["unpacked"])
            for one in json.loads(done.stdout)["layers"]
        ]

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment with the arm's store."""
        return {**os.environ, "TORCHKILN_HOME": str(self.home)}

    def _command(self, *options: str) -> list[str]:
        invoke = [sys.executable, "-m", "invoke", "--search-root", str(self.project)]
        return [*invoke, "build", *self.bench.variant.flag.split(), *options]


class DockerfileArm(KilnArm):
    """`kiln build --engine docker`: the rendered Dockerfile; Debian is given, as to the recipes."""

    id = "dockerfile"
    options = ("--engine", "docker")

    def clear(self) -> None:
        """Begin without layers of wheels, in the store and in BuildKit."""
        super().clear()
        build_base(Store(self.home), pipeline.job(self._opened(), self.bench.variant).base_lock)
        forget(self.bench.engine, f"torchkiln:{self.bench.variant.id}")

    def layers(self) -> list[LayerSize]:
        """Return the layers that the engine has."""
        return engine_layers(self.bench.engine, f"torchkiln:{self.bench.variant.id}")

    def _opened(self) -> pipeline.Project:
        return pipeline.open_project(self.project, self.environ)


class RecipeArm:
    """A recipe's Dockerfile, built by `docker buildx build --load`."""

    downloads = True

    def __init__(self, bench: Bench, peer: Peer, extras: Path) -> None:
        self.bench = bench
        self.id = peer.id
        self.context = bench.work / f"{self.id}-context"
        remove_tree(self.context)
        self.context.mkdir(parents=True)
        (self.context / "Dockerfile").write_text(peer.dockerfile)
        shutil.copytree(extras, self.context / "extras")
        shutil.copy2(find_uv_bin(), self.context / "uv")

    @property
    def reference(self) -> str:
        """Return the name of the image."""
        return f"bench:{self.id}"

    def clear(self) -> None:
        """Begin without layers; caches of packages and the context stay in BuildKit."""
        forget(self.bench.engine, self.reference)

    def build(self, wheels: WheelSet) -> Cost:
        """Build with these wheels in the context."""
        link_wheels(wheels.lock.wheels, self.bench.store, self.context / "wheels")
        pins = "".join(f"{wheel.name}=={wheel.version}\n" for wheel in wheels.lock.wheels)
        (self.context / "requirements.txt").write_text(pins)
        cuda = f"CUDA={self.bench.variant.cuda or ''}"
        options = ["--load", "--network", "host", "--build-arg", cuda, "--tag", self.reference]
        command = self.bench.engine.command("buildx", "build", *options, str(self.context))
        environ = {**self.bench.engine.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        return measured(command, environ, self.context)

    def layers(self) -> list[LayerSize]:
        """Return the layers that the engine has."""
        return engine_layers(self.bench.engine, self.reference)


def arms(bench: Bench, extras: Path) -> list[Arm]:
    """Return all arms; `extras` holds the wheels that recipes add."""
    peers = [RecipeArm(bench, peer, extras) for peer in PEERS]
    return [KilnArm(bench), DockerfileArm(bench), *peers]


def forget(engine: Engine, reference: str) -> None:
    """Remove an image and all that BuildKit kept, but for contexts and caches of downloads."""
    remove = engine.command("image", "rm", "--force", reference)
    prune = engine.command("builder", "prune", "--all", "--force", "--filter", "type=regular")
    for command in (remove, prune):
        subprocess.run(command, env=engine.environ, capture_output=True, check=False)
