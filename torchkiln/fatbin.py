"""Read for which GPUs a library holds code, from its fat binaries, without a GPU and without CUDA.

A library that nvcc made holds containers, each with the same kernels for several architectures: a
header of 16 bytes (magic, version, header's size, size of what follows), then entries, each with a
header (kind, version, header's size; payload's size; at byte 28 the architecture) and a payload,
compressed or not. NVIDIA documents none of it; this is what its `fatbinary_section.h` and
n-eiling/cuda-fatbin-decompression show, and `cuobjdump --list-elf` agrees.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

    from torchkiln.gpus import Capability

_CONTAINER: Final = struct.Struct("<IHHQ")
_ENTRY: Final = struct.Struct("<HHIQ12xI")
_MAGIC: Final = struct.pack("<IH", 0xBA55ED50, 1)
_PTX: Final = 1
_KINDS: Final = frozenset({1, 2})  # PTX, machine code


@dataclass(frozen=True, kw_only=True)
class DeviceCode:
    """What most containers of a library hold: machine code and PTX, sorted.

    A few kernels are there for single GPUs besides (sm_89 for FP8), which is no reason to say that
    the library runs on them.
    """

    machine: tuple[Capability, ...]
    ptx: tuple[Capability, ...]


def device_code(data: mmap.mmap | bytes) -> DeviceCode:
    """Return for which architectures the library `data` holds code; nothing where it has none."""
    found: Counter[tuple[int, int]] = Counter()
    containers = 0
    for start, end in _containers(data):
        containers += 1
        found.update(set(_entries(data, start, end)))
    common = sorted(key for key, count in found.items() if 2 * count > containers)
    return DeviceCode(
        machine=tuple(divmod(arch, 10) for kind, arch in common if kind != _PTX),
        ptx=tuple(divmod(arch, 10) for kind, arch in common if kind == _PTX),
    )


def _containers(data: mmap.mmap | bytes) -> Iterator[tuple[int, int]]:
    """Yield where the entries of each container start and end."""
    at = data.find(_MAGIC)
    while at != -1 and at + _CONTAINER.size <= len(data):
        _, _, header, size = _CONTAINER.unpack_from(data, at)
        end = at + header + size
        whole = header == _CONTAINER.size and end <= len(data)
        if whole:
            yield at + header, end
        at = data.find(_MAGIC, end if whole else at + 1)


def _entries(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (kind, architecture) of each entry; what is no entry ends the container."""
    while at + _ENTRY.size <= end:
        kind, _, header, size, arch = _ENTRY.unpack_from(data, at)
        if kind not in _KINDS or header < _ENTRY.size:
            return
        yield kind, arch
        at += header + size
