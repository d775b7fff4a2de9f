"""Small images in stores and archives, and what an engine reads from an archive."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from torchkiln.config import ImageConfig
from torchkiln.image import Image, write_image
from torchkiln.layer import Entry, Layer, write_layer

if TYPE_CHECKING:
    from torchkiln.store import Store

CONFIG = ImageConfig(
    environment={"PATH": "/usr/bin"},
    labels={"org.opencontainers.image.title": "torchkiln cpu"},
    created="2026-01-02T03:04:05Z",
)


def layer(store: Store, name: str, *entries: Entry) -> Layer:
    """Put a layer into the store."""
    with store.workspace() as folder:
        made = write_layer(folder / "layer", name, entries)
        store.adopt(folder / "layer", made.digest)
    return made


def image(store: Store, *texts: str, config: ImageConfig = CONFIG) -> Image:
    """Return an image with a layer for each text, which is the content of the file /<text>."""
    layers = [layer(store, text, Entry.text(text, text.encode() * 1000)) for text in texts]
    return write_image(store, "cpu", layers, config)


def names_and_blobs(data: bytes) -> tuple[list[str], list[str], set[str], dict[str, Any]]:
    """Return what Docker reads from an archive.

    That are the image's names, its layers' paths, the paths of the blobs that are there, and what
    it tells of the image then.
    """
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {
            member.name: content.read()
            for member in archive
            if member.isfile() and (content := archive.extractfile(member))
        }
    (entry,) = json.loads(files["manifest.json"])
    config = json.loads(files[entry["Config"]])
    document = {
        "Id": f"sha256:{entry['Config'].rpartition('/')[2]}",
        "RootFS": {"Layers": config["rootfs"]["diff_ids"]},
    }
    return entry["RepoTags"], entry["Layers"], set(files), document
