"""An image from layers: OCI config, manifest and layout (image-spec 1.1).

The layout also holds Docker's `manifest.json`, so that a tar of it loads into every Docker: those
with the containerd store read `index.json`, older ones only know `manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from torchkiln.descriptors import LAYER_NAME, descriptor, descriptors, diff_ids
from torchkiln.files import link_or_copy
from torchkiln.image_archive import image_names
from torchkiln.layer import Layer
from torchkiln.lockfile import canonical
from torchkiln.progress import tell_copied

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torchkiln.config import ImageConfig
    from torchkiln.descriptors import Descriptor
    from torchkiln.store import Store

_OCI: Final = "application/vnd.oci.image"
_ARCHITECTURE: Final = "amd64"
_BLOBS: Final = "blobs/sha256"
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
REPOSITORY: Final = "torchkiln"


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image in a store.

    `digest` is the manifest's sha256 (hex) and the image's identity, `config` that of the config,
    by which some engines name it; `layout` is an OCI layout directory; `environment` is what its
    processes start with.
    """

    variant: str
    reference: str
    digest: str
    config: str
    layout: Path
    layers: tuple[Layer, ...]
    environment: dict[str, str]

    @property
    def size(self) -> int:
        """Return the sum of the layers' compressed sizes in bytes."""
        return sum(layer.size for layer in self.layers)

    @property
    def unpacked(self) -> int:
        """Return the sum of the layers' uncompressed sizes in bytes."""
        return sum(layer.unpacked for layer in self.layers)


def write_image(
    store: Store, variant: str, layers: Sequence[Layer], config: ImageConfig, tag: str = ""
) -> Image:
    """Put config and manifest into the store and make the image's layout.

    `tag` is the variant's id by default.
    """
    config_bytes = canonical(_config(layers, config))
    config_digest = store.put(config_bytes)
    manifest_bytes = canonical(_manifest(layers, config_digest, len(config_bytes)))
    digest = store.put(manifest_bytes)
    reference = f"{REPOSITORY}:{tag or variant}"
    texts = _documents(digest, len(manifest_bytes), config_digest, layers, reference)
    blobs = [digest, config_digest, *(layer.digest for layer in layers)]
    layout = _layout(store, f"{variant}-{digest[:12]}", blobs, texts)
    return Image(
        variant=variant,
        reference=reference,
        digest=digest,
        config=config_digest,
        layout=layout,
        layers=tuple(layers),
        environment=config.environment,
    )


def adopt_image(store: Store, manifest: bytes, reference: str, unpacked: dict[str, int]) -> Image:
    """Return the image of a manifest whose blobs are all in the store and checked.

    `unpacked` is the size (bytes) of each layer's tar by the layer's digest (hex).
    """
    document = json.loads(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    config_digest = descriptor(document["config"]).sha256
    config = json.loads(store.blob(config_digest).read_bytes())
    layers = [
        _adopted(one, diff_id, unpacked[one.sha256])
        for one, diff_id in zip(descriptors(document["layers"]), diff_ids(config), strict=True)
    ]
    texts = _documents(digest, len(manifest), config_digest, layers, reference)
    blobs = [digest, config_digest, *(layer.digest for layer in layers)]
    # The name is part of the layout, so that one image by two names has two.
    named = hashlib.sha256(reference.encode()).hexdigest()[:8]
    runtime = config.get("config") or {}
    return Image(
        variant=reference,
        reference=reference,
        digest=digest,
        config=config_digest,
        layout=_layout(store, f"pulled-{named}-{digest[:12]}", blobs, texts),
        layers=tuple(layers),
        environment=dict(one.split("=", 1) for one in runtime.get("Env") or () if "=" in one),
    )


def _adopted(one: Descriptor, diff_id: str, unpacked: int) -> Layer:
    return Layer(
        name=one.name(one.digest[:19]),
        diff_id=diff_id,
        digest=one.sha256,
        size=one.size,
        unpacked=unpacked,
        codec=one.annotations.get("io.torchkiln.codec", ""),
    )


def _documents(
    digest: str, size: int, config_digest: str, layers: Sequence[Layer], reference: str
) -> dict[str, bytes]:
    """Return what a layout holds beside its blobs, by name; `size` is the manifest's, in bytes."""
    return {
        "oci-layout": _LAYOUT,
        "index.json": canonical(_index(digest, size, reference)),
        "manifest.json": canonical(_docker_manifest(config_digest, layers, reference)),
    }


def _layout(store: Store, name: str, blobs: Sequence[str], texts: dict[str, bytes]) -> Path:
    """Return the layout of this name, made anew or renewed."""
    layout = store.root / "images" / name
    with store.exclusive(f"layout-{layout.name}"), store.workspace() as folder:
        if layout.is_dir():
            _renew(store, layout, blobs, folder)
        else:
            _write_layout(store, layout, blobs, texts, folder)
        os.utime(layout)  # when it was last used, for `gc --keep`
    return layout


def _write_layout(
    store: Store, layout: Path, blobs: Sequence[str], texts: dict[str, bytes], folder: Path
) -> None:
    made = folder / "layout"
    (made / _BLOBS).mkdir(parents=True)
    # Once each: an image may have a layer twice, as Docker's empty one.
    copied = sum(link_or_copy(store.blob(one), made / _BLOBS / one) for one in dict.fromkeys(blobs))
    tell_copied(layout.parent, copied)
    for name, data in texts.items():
        (made / name).write_bytes(data)
    store.make(layout.parent)
    made.rename(layout)


def _renew(store: Store, layout: Path, blobs: Sequence[str], folder: Path) -> None:
    """Replace each blob of the layout that the store has made anew since: the old one was damaged.

    File by file, because someone may be reading the layout.
    """
    for digest in blobs:
        source, target = store.blob(digest), layout / _BLOBS / digest
        if not target.exists() or _state(source) != _state(target):
            link_or_copy(source, folder / digest)
            (folder / digest).replace(target)


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _config(layers: Sequence[Layer], config: ImageConfig) -> dict[str, Any]:
    runtime = {
        "User": config.user,
        "WorkingDir": config.workdir,
        "Env": [f"{name}={value}" for name, value in sorted(config.environment.items())],
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.command),
        "Labels": config.labels,
    }
    return {
        "architecture": _ARCHITECTURE,
        "os": "linux",
        "created": config.created,
        "config": {name: value for name, value in runtime.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": [
            {"created": config.created, "created_by": f"torchkiln {layer.name}"} for layer in layers
        ],
    }


def _manifest(layers: Sequence[Layer], config_digest: str, config_size: int) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _descriptor(f"{_OCI}.config.v1+json", config_digest, config_size),
        "layers": [
            _descriptor(f"{_OCI}.layer.v1.tar+gzip", layer.digest, layer.size)
            | {"annotations": {LAYER_NAME: layer.name, "io.torchkiln.codec": layer.codec}}
            for layer in layers
        ],
    }


def _index(digest: str, size: int, reference: str) -> dict[str, Any]:
    platform = {"architecture": _ARCHITECTURE, "os": "linux"}
    descriptor = _descriptor(f"{_OCI}.manifest.v1+json", digest, size)
    return {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.index.v1+json",
        "manifests": [descriptor | {"annotations": image_names(reference), "platform": platform}],
    }


def _docker_manifest(
    config_digest: str, layers: Sequence[Layer], reference: str
) -> list[dict[str, Any]]:
    return [
        {
            "Config": f"blobs/sha256/{config_digest}",
            "RepoTags": [reference],
            "Layers": [f"blobs/sha256/{layer.digest}" for layer in layers],
        }
    ]


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}
