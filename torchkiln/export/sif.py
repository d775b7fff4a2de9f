"""Write a SIF, Apptainer's container file: a header, a table of objects, the objects.

The format is that of github.com/apptainer/sif, `pkg/sif/sif.go` (`header`) and `descriptor.go`
(`rawDescriptor`), version 01, little-endian. Where its own library puts a random id and the clock,
here stand the image's digest and the constant time of the layers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from torchkiln.layer import MTIME

if TYPE_CHECKING:
    from collections.abc import Callable

_LAUNCH: Final = b"#!/usr/bin/env run-singularity\n"
_MAGIC: Final = b"SIF_MAGIC"
_VERSION: Final = b"01"
_ARCHITECTURES: Final = {"amd64": b"02", "arm64": b"04"}
_HEADER: Final = "<32s10s3s3s16s8q"
_DESCRIPTOR: Final = "<i?III3q2q2q128s384s"
_TABLE: Final = 4096
_CAPACITY: Final = 48  # the library's default: room for signatures, which are added in place
_DATA: Final = _TABLE + _CAPACITY * struct.calcsize(_DESCRIPTOR)
_ALIGNMENT: Final = 4096
_JSON: Final = 0x4006
_PARTITION: Final = 0x4004
_SQUASHFS: Final = 1
_PRIMARY: Final = 2
_GROUP: Final = 0xF0000001  # group 1, with the bits that mark groups


@dataclass(frozen=True, kw_only=True)
class _Object:
    """An object of the file: `gap` is the padding before it, all in bytes."""

    kind: int
    start: int
    size: int
    gap: int = 0
    name: bytes = b""
    extra: bytes = b""


def write_sif(
    stream: IO[bytes],
    *,
    digest: str,
    architecture: str,
    config: bytes,
    write_partition: Callable[[IO[bytes]], object],
) -> None:
    """Write the SIF of an image to `stream`, which can seek and stands at its start.

    `digest` (hex) gives the id; `config` is the image's OCI config, kept under the name that
    Apptainer gives it; `write_partition` writes the squashfs where the stream stands.
    """
    machine = _ARCHITECTURES[architecture]
    stream.write(bytes(_DATA) + config)
    gap = -stream.tell() % _ALIGNMENT
    stream.write(bytes(gap))
    start = stream.tell()
    write_partition(stream)
    end = stream.tell()
    objects = [
        _Object(kind=_JSON, start=_DATA, size=len(config), name=b"oci-config.json"),
        _Object(
            kind=_PARTITION,
            start=start,
            size=end - start,
            gap=gap,
            extra=struct.pack("<ii3s", _SQUASHFS, _PRIMARY, machine),
        ),
    ]
    descriptors = b"".join(_descriptor(n, one) for n, one in enumerate(objects, 1))
    stream.seek(_TABLE)
    stream.write(descriptors)
    stream.seek(0)
    stream.write(_header(bytes.fromhex(digest)[:16], machine, len(objects), end))
    stream.seek(end)


def _header(identity: bytes, machine: bytes, used: int, end: int) -> bytes:
    return struct.pack(
        _HEADER,
        *(_LAUNCH, _MAGIC, _VERSION, machine, identity, MTIME, MTIME),
        *(_CAPACITY - used, _CAPACITY, _TABLE, _DATA - _TABLE, _DATA, end - _DATA),
    )


def _descriptor(number: int, one: _Object) -> bytes:
    return struct.pack(
        _DESCRIPTOR,
        *(one.kind, True, number, _GROUP, 0),
        *(one.start, one.size, one.gap + one.size, MTIME, MTIME, 0, 0, one.name, one.extra),
    )
