"""The engine that needs no daemon: locked .debs and wheels in the store become an OCI image.

Each wheel layer is keyed by what it is made from and found again in the store's records, so that a
build does only what no build did before. Bytecode is made on one pool of workers and layers are
written on another, because a layer waits for its bytecode; dpkg installs the base beside them.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import installer

from torchkiln import archive, bytecode, compile_modules, wheelfile
from torchkiln import layer as layers
from torchkiln import venv as venvs
from torchkiln import wheel as wheels
from torchkiln.base import build_base
from torchkiln.bytecode import Compiler
from torchkiln.config import image_config, venv
from torchkiln.contents import own_entries
from torchkiln.image import Image, write_image
from torchkiln.layer import Entry, Layer, complete, write_layer
from torchkiln.lockfile import digest
from torchkiln.plan import plan_layers
from torchkiln.progress import Progress
from torchkiln.recipe import recipe
from torchkiln.tree import layer_tree, link_tree
from torchkiln.wheel import Wheel, read_wheel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torchkiln.catalog import Base, Variant
    from torchkiln.lockfile import BaseLock, LockedWheel, VariantLock
    from torchkiln.plan import WheelGroup
    from torchkiln.stopwatch import Stopwatch
    from torchkiln.store import Store
    from torchkiln.venv import Venv


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that an engine needs; `project` is the folder with `smoke/`."""

    project: Path
    store: Store
    base: Base
    variant: Variant
    lock: VariantLock
    base_lock: BaseLock

    @property
    def venv(self) -> Venv:
        """Return the environment that the image will hold."""
        return venv(self.base)

    @property
    def python_package(self) -> str:
        """Return the version of the Debian package that compiles bytecode."""
        name = f"python{self.base.python}-minimal"
        return next(deb.version for deb in self.base_lock.debs if deb.name == name)


@dataclass(frozen=True, kw_only=True)
class LayerPart:
    """A layer of wheels that is to be written."""

    key: str
    name: str
    wheels: tuple[Wheel, ...]

    @property
    def size(self) -> int:
        """Return the bytes that its files hold."""
        return sum(entry.size for wheel in self.wheels for entry in wheel.entries)

    @property
    def modules(self) -> int:
        """Return how many modules must be compiled for it."""
        return sum(len(wheel.sources) for wheel in self.wheels)


def space_needed(job: Job) -> int:
    """Return an upper estimate of the bytes that the build and a run of the image will write.

    A layer is at most 1.2 times as large as its wheels, and unpacks to 4 times their size.
    """
    groups = plan_layers(job.lock)
    missing = [group for group in groups if not _known(job.store, _layer_key(job, group))]
    return sum(wheel.size * 6 for group in missing for wheel in group.wheels)


def build(job: Job, watch: Stopwatch) -> Image:
    """Return the image of `job`, whose inputs are all in the store. Uses no network."""
    job.store.sweep()
    groups = plan_layers(job.lock)
    missing = [group for group in groups if not _known(job.store, _layer_key(job, group))]
    with watch.stage("layers"), job.store.workspace() as scratch:
        if missing:
            base = BaseWork(job=job, scratch=scratch, watch=watch)
            layer = _build_layers(job, groups, missing, base)
        else:  # no module is to be compiled, so no Python is to be unpacked
            layer = build_base(job.store, job.base_lock)
        known = [_known(job.store, _layer_key(job, group)) for group in groups]
    with watch.stage("image"):
        own = _own_layer(job)
        made = [layer, *(one for one in known if one), own]
        config = image_config(job.base, job.variant, job.lock, job.base_lock)
        return write_image(job.store, job.variant.id, made, config)


@dataclass(frozen=True, kw_only=True)
class BaseWork:
    """The base, which is built while layers of wheels are.

    `python` is a folder with an unpacked base, so that modules can be compiled before dpkg has set
    up the packages: it is there long before the base's layer is.
    """

    job: Job
    scratch: Path
    watch: Stopwatch
    python: Future[Path] = field(default_factory=Future)

    def build(self) -> Layer:
        """Return the base's layer."""
        try:
            with self.watch.stage("base"):
                layer = build_base(self.job.store, self.job.base_lock, self._take)
            if not self.python.done():
                self.python.set_result(layer_tree(self.job.store, layer))
        except BaseException as error:
            if not self.python.done():
                self.python.set_exception(error)
            raise
        return layer

    def _take(self, unpacked: Path) -> None:
        """Keep the files as they are now: dpkg gives its own to their names, and leaves these."""
        tree = self.scratch / "python"
        tree.mkdir()
        link_tree(str(unpacked), str(tree))
        self.python.set_result(tree)


def _layer_key(job: Job, group: WheelGroup) -> str:
    environment = job.venv
    return digest(
        [
            recipe(archive, bytecode, compile_modules, layers, venvs, wheels, wheelfile),
            layers.CODEC,
            environment.prefix,
            environment.python,
            job.python_package,
            installer.__version__,
            [wheel.sha256 for wheel in group.wheels],
        ]
    )


def _known(store: Store, key: str) -> Layer | None:
    record = store.read_record("layers", key)
    return Layer(**record) if record and store.has(record["digest"], record["size"]) else None


def _build_layers(
    job: Job, groups: Sequence[WheelGroup], missing: Sequence[WheelGroup], base: BaseWork
) -> Layer:
    """Write the missing layers of wheels and return the base's."""
    locked = [wheel for group in groups for wheel in group.wheels]
    with ThreadPoolExecutor() as pool:
        read = {wheel.locked.name: wheel for wheel in pool.map(partial(_read, job), locked)}
    # All wheels, also those whose layers exist: a new one may claim a path of an old one.
    complete(entry for wheel in read.values() for entry in wheel.entries)
    parts = [
        LayerPart(
            key=_layer_key(job, group),
            name=group.name,
            wheels=tuple(read[wheel.name] for wheel in group.wheels),
        )
        for group in missing
    ]
    compiler = Compiler(
        store=job.store,
        tree=base.python.result,
        python=job.base.python,
        package=job.python_package,
    )
    return _write_layers(job.store, parts, compiler, base)


def _read(job: Job, wheel: LockedWheel) -> Wheel:
    return read_wheel(job.store.checked(wheel.sha256, wheel.file), wheel, job.venv)


def _write_layers(
    store: Store, parts: Sequence[LayerPart], compiler: Compiler, base: BaseWork
) -> Layer:
    cores = len(os.sched_getaffinity(0))
    with (
        Progress("layers", sum(part.size for part in parts)) as progress,
        ThreadPoolExecutor(cores) as compilers,
        ThreadPoolExecutor(cores) as writers,
    ):
        compiled = {
            wheel.locked.name: [compilers.submit(work) for work in compiler.jobs(wheel)]
            for part in sorted(parts, key=lambda part: -part.modules)
            for wheel in part.wheels
        }
        # Layers with few modules first: they do not wait, and go while the others compile.
        written = [
            writers.submit(_write, store, part, compiled, progress)
            for part in sorted(parts, key=lambda part: part.modules)
        ]
        # In this thread, which is the one that Ctrl-C reaches.
        try:
            layer = base.build()
            for future in written:
                future.result()
        except BaseException:
            writers.shutdown(wait=False, cancel_futures=True)
            compilers.shutdown(wait=False, cancel_futures=True)
            raise
    return layer


def _write(
    store: Store,
    part: LayerPart,
    compiled: dict[str, list[Future[list[Entry]]]],
    progress: Progress,
) -> None:
    entries = [entry for wheel in part.wheels for entry in wheel.entries]
    for wheel in part.wheels:
        for future in compiled[wheel.locked.name]:
            entries += future.result()
    with store.workspace() as folder:
        layer = write_layer(folder / "layer", part.name, entries, progress.advance)
        store.adopt(folder / "layer", layer.digest)
    store.write_record("layers", part.key, vars(layer))


def _own_layer(job: Job) -> Layer:
    entries = own_entries(job.project, job.base, job.variant, job.lock)
    with job.store.workspace() as folder:
        layer = write_layer(folder / "layer", "torchkiln", entries)
        if not job.store.has(layer.digest, layer.size):
            job.store.adopt(folder / "layer", layer.digest)
    return layer
