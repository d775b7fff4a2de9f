"""What a wheel says of itself, on wheels made for it: right ones, and one wrong thing at a time."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from typing import TYPE_CHECKING

import pytest
from test_fatbin import ELF, container, entry

from torchkiln.catalog import Variant
from torchkiln.cuda import check_torch
from torchkiln.errors import ArchiveError, FactsError, LockError
from torchkiln.store import Store
from torchkiln.wheel_facts import check_facts

if TYPE_CHECKING:
    from pathlib import Path

CU117 = Variant(id="cu117", torch="2.0.1", cuda="11.7", index=None, packages=())
CPU = Variant(id="cpu", torch="2.13.0", cuda=None, index=None, packages=())
INFO = "torch-2.0.1.dist-info"
ARCHS = (37, 50, 60, 70, 75, 80, 86)


def members(
    *,
    cuda: str | None = "11.7",
    archs: tuple[int, ...] = ARCHS,
    glibc: int = 17,
    python: str = ">=3.8.0",
    numpy: bytes = b"numpy.core._multiarray_umath",
) -> dict[str, bytes]:
    """Return the members of a wheel of torch, without RECORD."""
    return {
        "torch/version.py": f"cuda = {cuda!r}\n".encode(),
        "torch/lib/libtorch_cuda.so": container(*(entry(ELF, arch) for arch in archs)),
        "torch/lib/libtorch_cpu.so": b"\0GLIBC_2.2.5\0GLIBC_2.%d\0" % glibc,
        "torch/lib/libtorch_python.so": b"\0" + numpy + b"\0",
        f"{INFO}/METADATA": f"Name: torch\nRequires-Python: {python}\n".encode(),
    }


def wheel(folder: Path, found: dict[str, bytes], *, lie: str = "") -> Path:
    """Write a wheel; `lie` is the member of which RECORD has another hash."""
    rows = []
    for name, data in found.items():
        digest = hashlib.sha256(b"" if name == lie else data).digest()
        value = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        rows.append(f"{name},sha256={value},{len(data)}")
    path = folder / "torch.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in found.items():
            archive.writestr(name, data)
        archive.writestr(f"{INFO}/RECORD", "\n".join([*rows, f"{INFO}/RECORD,,"]))
    return path


def test_a_wheel_that_is_as_written_has_every_fact(tmp_path: Path) -> None:
    found = check_facts(Store(tmp_path / "store"), CU117, wheel(tmp_path, members()))

    assert [one.name for one in found] == [
        "CUDA",
        "oldest Python",
        "machine code",
        "PTX",
        "glibc",
        "built against NumPy",
    ]
    assert all(one.agrees for one in found)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (members(cuda=None), "CUDA: 11.7 is written, none is so"),
        (members(cuda="12.1"), "CUDA: 11.7 is written, 12.1 is so"),
        (
            members(archs=ARCHS[:-1]),
            "machine code: 3.7 5.0 6.0 7.0 7.5 8.0 8.6 is written, 3.7 5.0 6.0 7.0 7.5 8.0 is so",
        ),
        (members(archs=(*ARCHS, 90)), "3.7 5.0 6.0 7.0 7.5 8.0 8.6 9.0 is so"),
        (members(glibc=28), "glibc: 2.17 is written, 2.28 is so"),
        (members(python=">=3.9"), "oldest Python: 3.8 is written, 3.9 is so"),
        (
            members(numpy=b"numpy._core._multiarray_umath"),
            "built against NumPy: 1 is written, 2 is so",
        ),
    ],
)
def test_one_thing_that_is_not_so_is_named(
    tmp_path: Path, found: dict[str, bytes], words: str
) -> None:
    with pytest.raises(FactsError) as caught:
        check_facts(Store(tmp_path / "store"), CU117, wheel(tmp_path, found))

    assert words in caught.value.why


def test_all_that_is_not_so_is_named_at_once(tmp_path: Path) -> None:
    found = members(cuda="12.1", glibc=28, python=">=3.9")
    with pytest.raises(FactsError) as caught:
        check_facts(Store(tmp_path / "store"), CU117, wheel(tmp_path, found))

    assert len(caught.value.why.splitlines()) == 3


def test_a_library_that_record_does_not_name_is_not_measured(tmp_path: Path) -> None:
    path = wheel(tmp_path, members(), lie="torch/lib/libtorch_cuda.so")
    with pytest.raises(ArchiveError, match=r"libtorch_cuda\.so"):
        check_facts(Store(tmp_path / "store"), CU117, path)


def test_a_cuda_variant_whose_wheel_is_the_cpu_build_is_not_locked(tmp_path: Path) -> None:
    with pytest.raises(LockError) as caught:
        check_torch(CU117, wheel(tmp_path, members(cuda=None)))

    assert "torch 2.0.1 was built for no CUDA" in caught.value.why
