"""Layers of a registry that builds elsewhere find by their keys.

A layer has a manifest of its own beside the images whose layer it is, tagged `cache-` and the first
40 hex digits of its key: its blob is there already. It has no configuration (image-spec 1.1,
"Guidelines for Artifact Usage"); its annotations say what the store's record of the layer says.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from torchkiln.errors import RegistryError
from torchkiln.lockfile import canonical
from torchkiln.registry import manifests
from torchkiln.registry.blobs import Blob
from torchkiln.registry.pull import described
from torchkiln.registry.upload import bring

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.layer import Layer
    from torchkiln.registry.pull import Wanted
    from torchkiln.registry.session import Session
    from torchkiln.store import Store

_FORMAT: Final = "1"
_KIND: Final = "application/vnd.torchkiln.layer.v1"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_EMPTY: Final = b"{}"


def tag(key: str) -> str:
    """Return the tag of the layer with this key."""
    return f"cache-{key[:40]}"


def notes(key: str, layer: Layer) -> dict[str, str]:
    """Return what the manifest of a layer says of it."""
    return {
        "io.torchkiln.cache": _FORMAT,
        "io.torchkiln.key": key,
        "io.torchkiln.layer": layer.name,
        "io.torchkiln.diff-id": f"sha256:{layer.diff_id}",
        "io.torchkiln.unpacked": str(layer.unpacked),
        "io.torchkiln.codec": layer.codec,
    }


def put(store: Store, session: Session, layers: Mapping[str, Layer]) -> None:
    """Tag layers, whose blobs the repository has, with their keys; what is right is left alone."""
    sha256 = store.put(_EMPTY)
    empty = Blob(path=store.blob(sha256), sha256=sha256, size=len(_EMPTY), label="`{}`")
    bring(session, empty, (), lambda _: None)
    for key, layer in layers.items():
        data = _manifest(key, layer, empty)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if manifests.digest_of(session, tag(key)) != digest:
            manifests.put(session, data, manifests.OCI_MANIFEST, tag(key))


def wanted(manifest: Mapping[str, Any], name: str) -> Wanted:
    """Return the blob that the manifest of the layer `name` names."""
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) != 1:
        what = f"this is no cached layer: {name}"
        raise RegistryError(what, "its manifest does not name one layer")
    return described(layers[0], name)


def _manifest(key: str, layer: Layer, empty: Blob) -> bytes:
    config = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": empty.digest,
        "size": empty.size,
    }
    blob = {"mediaType": _LAYER, "digest": f"sha256:{layer.digest}", "size": layer.size}
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_MANIFEST,
            "artifactType": _KIND,
            "config": config,
            "layers": [blob],
            "annotations": notes(key, layer),
        }
    )
