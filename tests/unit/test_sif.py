"""github.com/apptainer/sif, pkg/sif: `header` of sif.go, `rawDescriptor` of descriptor.go."""

from __future__ import annotations

import io
import struct

import pytest

from torchkiln.export.sif import write_sif
from torchkiln.layer import MTIME

DIGEST = "0123456789abcdef" * 4
CONFIG = b'{"architecture":"amd64"}'
PARTITION = b"hsqs" + bytes(5000)


def written(architecture: str = "amd64") -> bytes:
    stream = io.BytesIO()
    write_sif(
        stream,
        digest=DIGEST,
        architecture=architecture,
        config=CONFIG,
        write_partition=lambda partition: partition.write(PARTITION),
    )
    return stream.getvalue()


def test_the_header_is_that_of_version_1() -> None:
    data = written()
    launch, magic, version, machine, identity = struct.unpack_from("<32s10s3s3s16s", data)
    created, modified, free, total, table, length, start, size = struct.unpack_from("<8q", data, 64)

    assert launch.rstrip(b"\0") == b"#!/usr/bin/env run-singularity\n"
    assert (magic, version, machine) == (b"SIF_MAGIC\0", b"01\0", b"02\0")
    assert identity.hex() == DIGEST[:32]
    assert created == modified == MTIME
    assert (free, total, table, length) == (46, 48, 4096, 48 * 585)
    assert (start, start + size) == (table + length, len(data))


@pytest.mark.parametrize(("architecture", "code"), [("amd64", b"02\0"), ("arm64", b"04\0")])
def test_the_partition_is_the_primary_one_on_a_page_of_its_own(
    architecture: str, code: bytes
) -> None:
    data = written(architecture)
    kind, used, number, group, link, start, size, padded = struct.unpack_from(
        "<i?III3q", data, 4096 + 585
    )
    system, role, machine = struct.unpack_from("<ii3s", data, 4096 + 585 + 585 - 384)

    assert (kind, used, number, group, link) == (0x4004, True, 2, 0xF0000001, 0)
    assert start % 4096 == 0
    assert data[start : start + size] == PARTITION
    assert start + size == len(data)
    assert (system, role, machine) == (1, 2, code)
    previous = struct.unpack_from("<2q", data, 4096 + 17)
    assert padded == start + size - sum(previous)


def test_the_config_is_kept_under_the_name_that_apptainer_gives_it() -> None:
    data = written()
    kind, used, number = struct.unpack_from("<i?I", data, 4096)
    start, size = struct.unpack_from("<2q", data, 4096 + 17)
    name = data[4096 + 73 : 4096 + 73 + 128]

    assert (kind, used, number) == (0x4006, True, 1)
    assert name.rstrip(b"\0") == b"oci-config.json"
    assert data[start : start + size] == CONFIG


def test_nothing_is_a_sif_before_it_is_whole() -> None:
    def fail(_: object) -> None:
        raise InterruptedError

    stream = io.BytesIO()
    with pytest.raises(InterruptedError):
        write_sif(stream, digest=DIGEST, architecture="amd64", config=CONFIG, write_partition=fail)

    assert b"SIF_MAGIC" not in stream.getvalue()
