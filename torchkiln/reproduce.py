"""Build an image again from nothing and say whether it is the same."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from torchkiln import pipeline
from torchkiln.compare import layer_differences
from torchkiln.engine import kiln
from torchkiln.errors import ReproducibilityError
from torchkiln.files import link_or_copy
from torchkiln.progress import say
from torchkiln.stopwatch import Stopwatch
from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.catalog import Variant
    from torchkiln.engine.job import Job
    from torchkiln.image import Image
    from torchkiln.pipeline import Project

_SHOWN: Final = 20


def rebuild_and_compare(project: Project, variant: Variant, image: Image) -> None:
    """Build `variant` in a second store; any difference raises `ReproducibilityError`."""
    with rebuilt(project, pipeline.job(project, variant)) as (second, again):
        if again.digest != image.digest:
            raise difference(project.store, second, image, again)
    say(f"the second build is the same: sha256:{image.digest}")


@contextmanager
def rebuilt(project: Project, work: Job) -> Iterator[tuple[Store, Image]]:
    """Give a second store and the image of `work` in it, made from nothing but its inputs."""
    say(f"building `{work.variant.id}` again in a second store")
    pipeline.fetch_again(project, work)
    with project.store.workspace() as folder:
        second = Store(folder / "store")
        _share_inputs(project.store, second, work)
        yield second, kiln.build(replace(work, store=second), Stopwatch())


def _share_inputs(first: Store, second: Store, work: Job) -> None:
    """Give the second store the locked inputs and nothing that was made from them."""
    second.blobs.mkdir(parents=True)
    wheels = [wheel.sha256 for wheel in work.lock.wheels]
    for sha256 in wheels + [deb.sha256 for deb in work.base_lock.debs]:
        link_or_copy(first.blob(sha256), second.blob(sha256))


def difference(first: Store, second: Store, one: Image, two: Image) -> ReproducibilityError:
    """Return the error that names what differs between an image and the same, built again."""
    lines = [f"sha256:{one.digest} and sha256:{two.digest}"]
    if len(one.layers) != len(two.layers):
        lines.append(f"{len(one.layers)} layers and {len(two.layers)}")
    for before, after in zip(one.layers, two.layers, strict=False):
        if before.diff_id != after.diff_id:
            blobs = first.blob(before.digest), second.blob(after.digest)
            lines += map(str, islice(layer_differences(before.name, *blobs), _SHOWN))
        elif before.digest != after.digest:
            lines.append(f"{before.name}: the same files, compressed to other bytes")
    what = f"two builds of `{one.variant}` differ"
    return ReproducibilityError(what, "\n".join(lines))
