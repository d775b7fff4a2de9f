"""The engine that needs no daemon: locked .debs and wheels in the store become an OCI image.

A build does only what no build did before (see `torchkiln.engine.job`). Bytecode is made on one
pool of workers and layers are written on another, because a layer waits for its bytecode; dpkg
installs the base beside them.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from torchkiln import layer_records
from torchkiln.base import base_key, build_base
from torchkiln.bytecode import Compiler
from torchkiln.config import image_config
from torchkiln.contents import own_entries
from torchkiln.engine.job import Job, known_layer, layer_key, missing_layers
from torchkiln.image import Image, write_image
from torchkiln.layer import Entry, Layer, complete, write_layer
from torchkiln.layer_reader import layer_members
from torchkiln.listing import DIRECTORY
from torchkiln.plan import plan_layers
from torchkiln.progress import Progress
from torchkiln.tree import layer_tree, link_tree
from torchkiln.wheel import Wheel, read_wheel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torchkiln.listing import Member
    from torchkiln.lockfile import LockedWheel
    from torchkiln.plan import WheelGroup
    from torchkiln.stopwatch import Stopwatch
    from torchkiln.store import Store


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


def build(job: Job, watch: Stopwatch) -> Image:
    """Return the image of `job`, whose inputs are all in the store. Uses no network."""
    job.store.sweep()
    groups = plan_layers(job.lock)
    missing = missing_layers(job)
    with watch.stage("layers"), job.store.workspace() as scratch:
        if missing:
            base = BaseWork(job=job, scratch=scratch, watch=watch)
            layer = _build_layers(job, groups, missing, base)
        else:  # no module is to be compiled, so no Python is to be unpacked
            layer = build_base(job.store, job.base_lock)
        known = [known_layer(job.store, layer_key(job, group)) for group in groups]
    with watch.stage("image"):
        return _finish(job, [layer, *(one for one in known if one)])


def built_before(job: Job) -> Image | None:
    """Return the image of `job` if nothing of it is to be built, None otherwise."""
    keys = layer_keys(job)
    known = [known_layer(job.store, key) for key in keys]
    layers = [one for one in known if one]
    return _finish(job, layers) if len(layers) == len(keys) else None


def layer_keys(job: Job) -> list[str]:
    """Return the key of each layer that is kept by one, in the order of the image: all but ours."""
    return [base_key(job.base_lock), *(layer_key(job, one) for one in plan_layers(job.lock))]


def _finish(job: Job, layers: Sequence[Layer]) -> Image:
    """Return the image of the base's layer, those of wheels, and Torchkiln's own."""
    config = image_config(job.base, job.variant, job.lock, job.base_lock)
    return write_image(job.store, job.variant.id, [*layers, _own_layer(job)], config, job.tag)


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


def _build_layers(
    job: Job, groups: Sequence[WheelGroup], missing: Sequence[WheelGroup], base: BaseWork
) -> Layer:
    """Write the missing layers of wheels and return the base's."""
    locked = [wheel for group in missing for wheel in group.wheels]
    with ThreadPoolExecutor() as pool:
        read = {wheel.locked.name: wheel for wheel in pool.map(partial(_read, job), locked)}
        old = list(pool.map(partial(_claims, job), [one for one in groups if one not in missing]))
    # Also of layers that exist: a new one may claim a path of an old one.
    complete(chain(*(wheel.entries for wheel in read.values()), *old))
    parts = [
        LayerPart(
            key=layer_key(job, group),
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


def _claims(job: Job, group: WheelGroup) -> list[Entry]:
    """Return what a layer that exists brings: by its wheels if they are there, else by itself."""
    if all(job.store.has(wheel.sha256, wheel.size) for wheel in group.wheels):
        return [entry for wheel in group.wheels for entry in _read(job, wheel).entries]
    layer = known_layer(job.store, layer_key(job, group))
    members = (
        layer_members(job.store.checked(layer.digest, group.name), group.name) if layer else ()
    )
    return [_claim(member, group.name) for member in members]


def _claim(member: Member, owner: str) -> Entry:
    if member.kind == DIRECTORY:
        return Entry.directory(member.path, member.mode, owner)
    return Entry(
        path=member.path,
        mode=member.mode,
        size=member.size,
        chunks=tuple,  # never asked for: the layer is there
        sha256=member.sha256,
        owner=owner,
    )


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
    # Another build may be at the same layer, which images share: it is written once.
    with store.exclusive(f"layer-{part.key}"):
        if known_layer(store, part.key):
            progress.advance(part.size)
            return
        with store.workspace() as folder:
            layer = write_layer(folder / "layer", part.name, entries, progress.advance)
            store.adopt(folder / "layer", layer.digest)
        layer_records.write(store, part.key, layer)


def _own_layer(job: Job) -> Layer:
    entries = own_entries(job.project, job.base, job.variant, job.lock)
    with job.store.workspace() as folder:
        layer = write_layer(folder / "layer", "torchkiln", entries)
        if not job.store.has(layer.digest, layer.size):
            job.store.adopt(folder / "layer", layer.digest)
    return layer
