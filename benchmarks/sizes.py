"""The layers of an image that an engine has: digests, and sizes as they are sent and unpacked."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, cast

from isal import isal_zlib

from torchkiln.engine.save import ChunkStream

if TYPE_CHECKING:
    from torchkiln.engine.connection import Engine

_READ: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """A layer: the digest of its blob, and its bytes compressed and unpacked."""

    digest: str
    compressed: int
    unpacked: int


def engine_layers(engine: Engine, reference: str) -> list[LayerSize]:
    """Return the layers of an image in Docker with containerd's store, which keeps blobs."""
    documents: dict[str, bytes] = {}
    sizes: dict[str, LayerSize] = {}
    stream = io.BufferedReader(ChunkStream(engine.client.api.get_image(reference)), _READ)
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as saved:
        for member in saved:
            content = saved.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            head = content.read(_READ)
            digest = f"sha256:{member.name.rpartition('/')[2]}"
            if head[:1] in {b"{", b"["}:
                documents |= {member.name: head, digest: head}
            else:
                unpacked = _inflated(head, content) if head[:2] == _GZIP else member.size
                sizes[digest] = LayerSize(digest=digest, compressed=member.size, unpacked=unpacked)
    index = json.loads(documents["index.json"])
    manifest = json.loads(documents[index["manifests"][0]["digest"]])
    return [sizes[layer["digest"]] for layer in manifest["layers"]]


def _inflated(head: bytes, rest: IO[bytes]) -> int:
    """Return how many bytes a gzip stream unpacks to."""
    decompressor = isal_zlib.decompressobj(31)
    size = len(decompressor.decompress(head))
    while data := rest.read(_READ):
        size += len(decompressor.decompress(data))
    return size
