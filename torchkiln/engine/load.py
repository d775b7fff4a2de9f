"""Load an image of the store straight into an engine: streamed, and only what the engine lacks."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from torchkiln.descriptors import descriptors
from torchkiln.engine.images import arriving, asked, find, refuse
from torchkiln.engine.watch import watched
from torchkiln.errors import EngineError
from torchkiln.image_archive import archive, archive_size
from torchkiln.progress import Progress, say

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from torchkiln.engine.connection import Engine
    from torchkiln.engine.images import EngineImage
    from torchkiln.image import Image
    from torchkiln.store import Store

_LABELLED: Final = {"label": "org.opencontainers.image.title"}


def load(engine: Engine, store: Store, image: Image) -> EngineImage:
    """Put `image` into the engine under its reference; return what the engine has then.

    Nothing is left behind, and the image that had the name keeps it, where this fails.
    """
    present = find(engine, image.reference)
    if present and _same(present, image):
        return present
    with arriving(engine, image.reference) as name:
        known = _known_layers(engine, store, image)
        try:
            _send(engine, image, name, known)
        except EngineError:
            if not known:
                raise
            say("the engine has less than it seemed: sending all layers")
            _send(engine, image, name, ())
    loaded = find(engine, image.reference)
    if loaded is None or not _same(loaded, image):
        what = f"{engine.title} has another image than the one that it was sent"
        raise EngineError(what, f"sha256:{image.digest} was sent")
    return loaded


def _same(loaded: EngineImage, image: Image) -> bool:
    return loaded.id in {f"sha256:{image.digest}", f"sha256:{image.config}"}


def _send(engine: Engine, image: Image, name: str, known: Collection[str]) -> None:
    """Stream the image, without the layers that are `known`, to be called `name`."""
    what = f"cannot load `{image.reference}`"
    with Progress("loading", archive_size(image.layout, known)) as progress, asked(engine, what):
        sending = True

        def chunks() -> Iterator[bytes]:
            for chunk in archive(image.layout, reference=name, without=known):
                if not sending:  # nobody waits for it any more
                    raise EngineError(what)
                progress.advance(len(chunk))
                yield chunk

        def work() -> None:
            for event in engine.client.api.load_image(chunks(), quiet=False):
                refuse(event)

        try:
            watched(engine, work)
        finally:
            sending = False


def _known_layers(engine: Engine, store: Store, image: Image) -> set[str]:
    """Return the digests of the layers that need not be sent.

    Docker loads an archive that lacks a layer if it has that layer: in containerd's store any blob
    of an image, in its own store the layers that an image begins with. Podman's API wants all.
    """
    if engine.podman:
        return set()
    with asked(engine, "cannot list the images"):
        summaries = engine.client.api.images(filters=_LABELLED)
    if engine.containerd:
        blobs = {blob for one in summaries for blob in _layers_of(store, one["Id"])}
        return {layer.digest for layer in image.layers} & blobs
    loaded = [found for one in summaries if (found := find(engine, one["Id"]))]
    return {
        layer.digest
        for one in loaded
        for layer, _ in takewhile(
            lambda pair: pair[1] == f"sha256:{pair[0].diff_id}",
            zip(image.layers, one.diff_ids, strict=False),
        )
    }


def _layers_of(store: Store, image_id: str) -> list[str]:
    """Return the digests of the layers of an image that this store has too."""
    digest = image_id.removeprefix("sha256:")
    if not store.has(digest):
        return []
    manifest = json.loads(store.blob(digest).read_bytes())
    return [layer.sha256 for layer in descriptors(manifest.get("layers") or [])]
