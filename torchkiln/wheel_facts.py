"""Measure in a locked wheel of torch what is written down of its build, and compare.

Measured without running anything of the wheel: CUDA and version (torch/version.py), Pythons
(METADATA), GPUs (fat binaries), glibc (symbol versions) and NumPy (the module that torch imports).
What is measured is what RECORD names, by its hashes.
"""

from __future__ import annotations

import base64
import hashlib
import mmap
import re
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Final

from installer.records import parse_record_file
from packaging.specifiers import SpecifierSet

from torchkiln import compat, gpus
from torchkiln.cuda import torch_cuda
from torchkiln.errors import ArchiveError, FactsError
from torchkiln.fatbin import device_code
from torchkiln.releases import RELEASES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torchkiln.catalog import Variant
    from torchkiln.store import Store

_CUDA_LIBRARY: Final = "torch/lib/libtorch_cuda.so"
_CPU_LIBRARY: Final = "torch/lib/libtorch_cpu.so"
_PYTHON_LIBRARY: Final = "torch/lib/libtorch_python.so"
# What NumPy 2's headers import and NumPy 1's do not (numpy/_core/include/numpy/__multiarray_api.h).
_NUMPY_2: Final = b"numpy._core._multiarray_umath"
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that is both written down and measured."""

    name: str
    written: str
    measured: str
    agrees: bool


def check_facts(store: Store, variant: Variant, path: Path) -> tuple[Fact, ...]:
    """Return what the wheel of torch at `path` says to the facts of `variant`, all of them.

    Raise `FactsError` where any disagrees. Takes seconds: the libraries are unpacked and read.
    """
    with store.workspace() as folder, zipfile.ZipFile(path) as wheel:
        found = tuple(_facts(_Members(wheel, folder), variant, path))
    wrong = [one for one in found if not one.agrees]
    if wrong:
        what = f"what is written down of torch {variant.torch} for `{variant.id}` is not so"
        lines = [f"{one.name}: {one.written} is written, {one.measured} is so" for one in wrong]
        hint = "correct torchkiln/compat.py or torchkiln/gpus.py, or the variant in the catalog"
        raise FactsError(what, "\n".join(lines), hint)
    return found


def _facts(members: _Members, variant: Variant, path: Path) -> Iterator[Fact]:
    cuda = torch_cuda(path)
    yield _fact("CUDA", variant.cuda or "none", cuda or "none")
    release = RELEASES.get(variant.torch)
    if release is not None:
        wanted = SpecifierSet(members.metadata("Requires-Python"))
        first = release.pythons[0]
        pythons = (f"3.{minor}" for minor in range(6, 30))
        oldest = next((one for one in pythons if wanted.contains(f"{one}.99")), "none")
        yield _fact("oldest Python", first, oldest)
    if variant.cuda:
        with members.mapped(_CUDA_LIBRARY) as data:
            code = device_code(data)
        written = gpus.architectures(variant.torch, variant.cuda)
        yield _fact("machine code", _shown(written), _shown(code.machine))
        yield _fact("PTX", "none", _shown(code.ptx))
    with members.mapped(_CPU_LIBRARY) as data:
        needed = max(int(one[1]) for one in re.finditer(rb"GLIBC_2\.(\d+)\0", data))
    floor = compat.glibc_floor(variant.torch)
    yield Fact(
        name="glibc",
        written=f"2.{floor}",
        measured=f"2.{needed}",
        agrees=needed <= floor,
    )
    with members.mapped(_PYTHON_LIBRARY) as data:
        numpy = "2" if data.find(_NUMPY_2) != -1 else "1"
    yield _fact("built against NumPy", compat.numpy_abi(variant.torch), numpy)


def _fact(name: str, written: str, measured: str) -> Fact:
    return Fact(name=name, written=written, measured=measured, agrees=written == measured)


def _shown(archs: Sequence[gpus.Capability]) -> str:
    return " ".join(map(gpus.shown, archs)) or "none"


class _Members:
    """The files of a wheel, each compared with RECORD before it is read."""

    def __init__(self, wheel: zipfile.ZipFile, folder: Path) -> None:
        self._wheel = wheel
        self._folder = folder
        (record,) = [one for one in wheel.namelist() if one.endswith(".dist-info/RECORD")]
        lines = wheel.read(record).decode().splitlines()
        self._hashes = {path: value for path, value, _ in parse_record_file(lines)}
        self._info = record.removesuffix("RECORD")

    def metadata(self, key: str) -> str:
        """Return a field of METADATA."""
        text = self._wheel.read(f"{self._info}METADATA").decode()
        return HeaderParser().parsestr(text)[key] or ""

    @contextmanager
    def mapped(self, name: str) -> Iterator[mmap.mmap]:
        """Give a library as memory; it is on the disk for as long as that lasts."""
        path = self._folder / "library"
        sha256 = hashlib.sha256()
        with self._wheel.open(name) as stream, path.open("wb") as target:
            while chunk := stream.read(_CHUNK):
                sha256.update(chunk)
                target.write(chunk)
        value = base64.urlsafe_b64encode(sha256.digest()).rstrip(b"=").decode()
        if self._hashes.get(name) != f"sha256={value}":
            what = f"a file of the wheel is not what its RECORD says: {name}"
            raise ArchiveError(what)
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            yield data
        path.unlink()
