"""The uncompressed side of a layer: the hash and the size of the tar that a blob holds."""

from __future__ import annotations

import hashlib
from typing import IO, TYPE_CHECKING, Final

from isal.igzip_lib import IsalError

from torchkiln.archive import open_gzip
from torchkiln.digests import is_sha256
from torchkiln.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torchkiln.layer import Layer
    from torchkiln.store import Store

_READ: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MOST: Final = 64 << 30  # bytes of one layer's tar, as for unpacking
_RECORDS: Final = "unpacked"
_WRAP: Final = 1 << 32


def check_layer(
    store: Store, layer: Layer, advance: Callable[[int], object] = lambda _: None
) -> None:
    """See that the tar in a layer's blob has the hash `diff_id`; `ArchiveError` names it if not.

    Measured once for a blob. `advance` is told of the blob's bytes when they are checked.
    """
    record = store.read_record(_RECORDS, layer.digest)
    if record is None or not is_sha256(record.get("diff_id")):
        record = {"diff_id": _measure(store.checked(layer.digest, layer.name), layer.name)}
        store.write_record(_RECORDS, layer.digest, record)
    if record["diff_id"] != layer.diff_id:
        what = f"a layer does not hold what its image says: {layer.name}"
        why = f"its tar is sha256:{record['diff_id']}, the image says sha256:{layer.diff_id}"
        raise ArchiveError(what, why)
    advance(layer.size)


def unpacked_size(path: Path) -> int:
    """Return the size (bytes) of the tar in a blob, by what gzip says at its end (RFC 1952).

    That is the size modulo 4 GiB: of the sizes that it can mean, the first that a tar has which is
    not smaller than its blob.
    """
    packed = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(len(_GZIP)) != _GZIP:
            return packed
        stream.seek(-4, 2)
        size = int.from_bytes(stream.read(4), "little")
    return size + -(-max(packed - size, 0) // _WRAP) * _WRAP


def _measure(path: Path, label: str) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        with _open(path, label) as stream:
            while data := stream.read(_READ):
                digest.update(data)
                size += len(data)
                if size > _MOST:
                    what = f"a layer is larger than a layer may be: {label}"
                    raise ArchiveError(what, f"more than {_MOST} bytes")
    except (IsalError, EOFError, OSError) as error:  # type: ignore[misc] # an instance in isal's stub
        what = f"a layer is broken: {label}"
        raise ArchiveError(what, str(error)) from error
    return digest.hexdigest()


def _open(path: Path, label: str) -> IO[bytes]:
    """Return the tar in a blob, which is compressed with gzip or not at all."""
    with path.open("rb") as stream:
        start = stream.read(len(_ZSTD))
    if start == _ZSTD:
        what = f"a layer is compressed with zstd, which Torchkiln does not read: {label}"
        hint = "skopeo copy --dest-compress-format gzip docker://IMAGE docker://COPY"
        raise ArchiveError(what, hint=hint)
    return open_gzip(path) if start.startswith(_GZIP) else path.open("rb")
