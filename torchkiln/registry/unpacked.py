"""The uncompressed side of a layer: the hash and the size of the tar that a blob holds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from isal.igzip_lib import IsalError

from torchkiln.archive import open_gzip
from torchkiln.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.store import Store

_READ: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MOST: Final = 64 << 30  # bytes of one layer's tar, as for unpacking
_RECORDS: Final = "unpacked"


def check_layer(store: Store, sha256: str, diff_id: str, label: str) -> None:
    """See that the tar in the blob `sha256` has the hash `diff_id` (both hex).

    Measured once for a blob; `ArchiveError` names what differs.
    """
    record = store.read_record(_RECORDS, sha256) or _measure(store, sha256, label)
    if record["diff_id"] != diff_id:
        what = f"a layer does not hold what its image says: {label}"
        why = f"its tar is sha256:{record['diff_id']}, the image says sha256:{diff_id}"
        raise ArchiveError(what, why)


def unpacked_size(store: Store, sha256: str) -> int:
    """Return the size (bytes) of the tar in a blob that was checked before."""
    record = store.read_record(_RECORDS, sha256) or _measure(store, sha256, sha256[:12])
    return int(record["size"])


def _measure(store: Store, sha256: str, label: str) -> dict[str, str | int]:
    path = store.blob(sha256)
    _check_codec(path, label)
    digest, size = hashlib.sha256(), 0
    try:
        with open_gzip(path) if _starts(path, _GZIP) else path.open("rb") as stream:
            while data := stream.read(_READ):
                digest.update(data)
                size += len(data)
                if size > _MOST:
                    what = f"a layer is larger than a layer may be: {label}"
                    raise ArchiveError(what, f"more than {_MOST} bytes")
    except (IsalError, EOFError, OSError) as error:  # type: ignore[misc] # an instance in isal's stub
        what = f"a layer is broken: {label}"
        raise ArchiveError(what, str(error)) from error
    record: dict[str, str | int] = {"diff_id": digest.hexdigest(), "size": size}
    store.write_record(_RECORDS, sha256, record)
    return record


def _check_codec(path: Path, label: str) -> None:
    if _starts(path, _ZSTD):
        what = f"a layer is compressed with zstd, which Torchkiln does not read: {label}"
        hint = "skopeo copy --dest-compress-format gzip docker://IMAGE docker://COPY"
        raise ArchiveError(what, hint=hint)


def _starts(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic
