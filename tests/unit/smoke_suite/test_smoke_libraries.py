import ctypes.util
from pathlib import Path

import pytest
from libraries import load_errors, missing_required, runtime_libraries, waits_for_host


def test_runtime_libraries_are_found_by_name_wherever_they_lie() -> None:
    record = [
        "torch/lib/libtorch_cuda.so",
        "torch/lib/libcaffe2_nvrtc.so",
        "nvidia/cublas/lib/libcublas.so.11",
        "nvidia/cu13/lib/libcufile_rdma.so.1",
        "torch/lib/libcudart-d0da41ae.so.11.0",
        "nvidia/cublas/include/cublas.h",
        "nvidia/cublas/lib/__init__.py",
    ]
    expected = [
        "nvidia/cu13/lib/libcufile_rdma.so.1",
        "nvidia/cublas/lib/libcublas.so.11",
        "torch/lib/libcudart-d0da41ae.so.11.0",
    ]

    assert expected == runtime_libraries(record)


def test_an_image_without_cublas_is_told_so() -> None:
    assert missing_required(["a/libcudart.so.12", "b/libcudnn.so.9"]) == ["libcublas"]


def test_a_library_that_loads_leaves_no_error() -> None:
    name = ctypes.util.find_library("m")
    assert name is not None

    assert load_errors([name]) == {}


def test_a_library_that_is_none_is_named_with_the_loaders_words(tmp_path: Path) -> None:
    broken = tmp_path / "libcublas.so.11"
    broken.write_bytes(b"not an ELF file")

    errors = load_errors([str(broken)])

    assert list(errors) == ["libcublas.so.11"]
    assert "file too short" in errors["libcublas.so.11"]


@pytest.mark.parametrize(
    ("library", "waits"),
    [
        ("libcuda.so.1", True),
        ("libibverbs.so.1", True),
        ("libcudart.so.11.0", False),
        ("libz.so.1", False),
    ],
)
def test_only_what_no_image_brings_may_be_missing(*, library: str, waits: bool) -> None:
    error = f"{library}: cannot open shared object file: No such file or directory"

    assert waits == waits_for_host(error)
