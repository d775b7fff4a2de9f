"""The way from a flag to a tested image: locks, fetch, build, smoke, each once and in order."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torchkiln import catalog as catalogs
from torchkiln import drift, host, layer_cache, sandbox
from torchkiln.base import base_key, build_base
from torchkiln.engine import kiln
from torchkiln.engine.job import BASE_GROWTH, Job, needed_inputs, space_needed
from torchkiln.fetch import fetch
from torchkiln.files import write_atomic
from torchkiln.inputs import base_lock, fetch_from, with_base
from torchkiln.lockfile import (
    base_lock_path,
    read_base_lock,
    read_environment_lock,
    read_variant_lock,
    variant_lock_path,
)
from torchkiln.picture import layers_svg
from torchkiln.progress import waiting
from torchkiln.projects import use
from torchkiln.smoke import last_report, report_folder, smoke
from torchkiln.stopwatch import Stopwatch
from torchkiln.store import Store, default_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torchkiln.catalog import Catalog, Variant
    from torchkiln.fetch import FetchReport
    from torchkiln.image import Image
    from torchkiln.layer import Layer
    from torchkiln.layer_cache import Caches
    from torchkiln.lockfile import BaseLock, Drifted, LockedDeb, LockedWheel
    from torchkiln.smoke import SmokeReport


@dataclass(frozen=True, kw_only=True)
class Project:
    """A clone of Torchkiln with its catalog, and the store that its builds use."""

    root: Path
    catalog: Catalog
    store: Store
    environ: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did; `smoke` is None where the suite was not asked for.

    `folder` holds the picture of the layers and the suite's reports.
    """

    image: Image
    folder: Path
    seconds: dict[str, float]
    smoke: SmokeReport | None
    drifted: tuple[Drifted, ...] = ()


def open_project(root: Path, environ: Mapping[str, str] = os.environ) -> Project:
    """Return the project at `root`; faults in its catalog raise `CatalogError`."""
    return Project(
        root=root,
        catalog=catalogs.load(root / "images" / "variants.yaml"),
        store=Store(default_root(environ)),
        environ=environ,
    )


@dataclass(frozen=True, kw_only=True)
class Supply:
    """Where a build takes from what the store lacks.

    Layers from `caches` first. With `frozen` the base is that of the lock or none: see
    `torchkiln.drift`.
    """

    caches: Caches | None = None
    frozen: bool = False


def job(project: Project, variant: Variant) -> Job:
    """Return what an engine needs to build `variant`; stale locks raise `LockError`."""
    return Job(
        project=project.root,
        store=project.store,
        base=project.catalog.base,
        variant=variant,
        lock=read_variant_lock(project.root, project.catalog, variant),
        base_lock=base_lock(project),
    )


def locked_job(project: Project, variant: Variant) -> Job:
    """Return what `job` does, with the project's lock of the base, whether that is built or not."""
    locked = read_base_lock(project.root, project.catalog.base)
    return replace(job(project, variant), base_lock=locked)


def assemble(
    project: Project, variant: Variant, watch: Stopwatch, supply: Supply | None = None
) -> Image:
    """Return the image of `variant`, with as little fetched and built as the store lacks."""
    supply = supply or Supply()
    work = locked_job(project, variant)
    with watch.stage("check"):
        _check_host(project, space_needed(work))
    if supply.caches:
        _use(work, work.lock.wheels)
        with watch.stage("cache"):
            layer_cache.take(work, supply.caches, project.environ)

    def bring(lock: BaseLock) -> Job:
        found = replace(work, base_lock=lock)
        _use(found, found.lock.wheels)
        fetch_from(project, *needed_inputs(found), lock)
        return found

    with watch.stage("fetch"):
        work = with_base(project, bring, frozen=supply.frozen)
    return kiln.build(work, watch)


def prepare(project: Project, variant: Variant, watch: Stopwatch, *, frozen: bool) -> Job:
    """See that this machine can build `variant`, and bring all of its inputs into the store."""
    work = job(project, variant)
    with watch.stage("check"):
        _check_host(project, space_needed(work))

    def bring(lock: BaseLock) -> Job:
        found = replace(work, base_lock=lock)
        _use(found, found.lock.wheels)
        debs = [] if drift.is_built(project.store, lock) else lock.debs
        fetch_from(project, found.lock.wheels, debs, lock)
        return found

    with watch.stage("fetch"):
        return with_base(project, bring, frozen=frozen)


def locked_variants(project: Project) -> tuple[Variant, ...]:
    """Return the variants that have a lock, whether it is good or not."""
    return tuple(
        variant
        for variant in project.catalog.variants
        if variant_lock_path(project.root, variant.id).exists()
    )


def build_base_alone(project: Project, *, frozen: bool = False) -> Layer:
    """Return the base's layer, on which all images stand, fetched and built if it is not there."""

    def bring(lock: BaseLock) -> BaseLock:
        _check_host(project, BASE_GROWTH * sum(deb.size for deb in lock.debs))
        path = base_lock_path(project.root, lock.release)
        use(project.store, project.root, path, lock.debs, layers=[base_key(lock)])
        if not drift.is_built(project.store, lock):
            fetch_from(project, [], lock.debs, lock)
        return lock

    return build_base(project.store, with_base(project, bring, frozen=frozen))


def torch_wheel(project: Project, variant: Variant) -> Path:
    """Return the locked wheel of torch, fetched if it is not there."""
    locked = read_variant_lock(project.root, project.catalog, variant).wheel("torch")
    use(project.store, project.root, variant_lock_path(project.root, variant.id), [locked])
    fetch(project.store, [locked], [], project.catalog.indexes, project.environ)
    return project.store.checked(locked.sha256, locked.file)


def fetch_inputs(
    project: Project, variant: Variant, *, with_kernel: bool = False, frozen: bool = False
) -> FetchReport:
    """Bring what `variant` is made from into the store, and what its environments have beside."""
    work = job(project, variant)
    lock = work.lock
    if with_kernel:
        lock = read_environment_lock(project.root, project.catalog, variant)

    def bring(base: BaseLock) -> FetchReport:
        _use(replace(work, base_lock=base), lock.wheels)
        return fetch_from(project, lock.wheels, base.debs, base)

    return with_base(project, bring, frozen=frozen)


def fetch_again(project: Project, work: Job) -> None:
    """Bring into the store what `work` is made from, and nothing in its place."""
    fetch_from(project, work.lock.wheels, work.base_lock.debs, work.base_lock)


def fetch_wheels(project: Project, variant: Variant) -> None:
    """Bring the wheels of `variant` into the store."""
    lock = read_variant_lock(project.root, project.catalog, variant)
    fetch(project.store, lock.wheels, [], project.catalog.indexes, project.environ)


def built_image(project: Project, variant: Variant) -> Image:
    """Return the image of `variant` as its lock gives it, built before or now."""
    return image_built_before(project, variant) or assemble(project, variant, Stopwatch())


def image_built_before(project: Project, variant: Variant) -> Image | None:
    """Return the image of `variant` if all of it is built, None otherwise. Builds nothing."""
    work = job(project, variant)
    image = kiln.built_before(work)
    if image:
        _use(work, work.lock.wheels)
    return image


def build(
    project: Project, variant: Variant, *, with_smoke: bool, supply: Supply | None = None
) -> BuildReport:
    """Build `variant` and, unless told not to, see that it trains.

    An image that passed before on this machine is not tried again: it is the same bytes.
    """
    watch = Stopwatch()
    image = assemble(project, variant, watch, supply)
    picture = report_folder(project.store, image.digest) / "layers.svg"
    if not picture.exists():
        write_atomic(picture, layers_svg(image))
    report = None
    if with_smoke:
        with watch.stage("smoke"):
            report = last_report(project.store, image)
            if report is None:
                with waiting(f"running the smoke suite in `{variant.id}`"):
                    report = smoke(project.store, image)
    return BuildReport(
        image=image,
        seconds=watch.seconds,
        smoke=report,
        folder=picture.parent,
        drifted=base_lock(project).drifted,
    )


def _use(work: Job, wheels: Iterable[LockedWheel]) -> None:
    """Let `gc` know, wherever it runs, that this project works with the lock now."""
    path = variant_lock_path(work.project, work.variant.id)
    files: list[LockedWheel | LockedDeb] = [*wheels, *work.base_lock.debs]
    use(work.store, work.project, path, files, layers=kiln.layer_keys(work))


def _check_host(project: Project, space: int) -> None:
    """Ask of the machine what a build needs; room for what is to be fetched is `fetch`'s question.

    Where nothing is to be built, nothing is asked.
    """
    if not space:
        return
    host.check(project.environ, project.store.root, space, probe=sandbox.probe(uid=0))


def as_json(report: BuildReport) -> dict[str, Any]:
    """Return the report as `build --json` prints it."""
    image = report.image
    tested = report.smoke
    return {
        "variant": image.variant,
        "reference": image.reference,
        "digest": f"sha256:{image.digest}",
        "layout": str(image.layout),
        "size": image.size,
        "layers": [
            {
                "name": layer.name,
                "diff_id": f"sha256:{layer.diff_id}",
                "digest": f"sha256:{layer.digest}",
                "size": layer.size,
                "unpacked": layer.unpacked,
            }
            for layer in image.layers
        ],
        "drifted": [asdict(package) for package in report.drifted],
        "seconds": report.seconds,
        "smoke": tested and smoke_as_json(tested),
    }


def smoke_as_json(report: SmokeReport) -> dict[str, Any]:
    """Return what `build --json` prints of the smoke suite."""
    return {
        "passed": report.passed,
        "fresh": report.fresh,
        "skipped": report.skipped,
        "report": str(report.folder / "report.json"),
    }
