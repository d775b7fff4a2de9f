from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from package_index import torch, wheel

from torchkiln.catalog import Variant
from torchkiln.cuda import check_distributions, check_torch, torch_cuda
from torchkiln.errors import ArchiveError, LockError
from torchkiln.lockfile import LockedWheel

if TYPE_CHECKING:
    from pathlib import Path


def variant(cuda: str | None) -> Variant:
    return Variant(id="it", torch="2.0.1", cuda=cuda, index=None, packages=())


def locked(name: str, version: str = "1") -> LockedWheel:
    return LockedWheel(name=name, version=version, file="", size=0, sha256="")


def written(folder: Path, made: tuple[str, bytes]) -> Path:
    path = folder / made[0]
    path.write_bytes(made[1])
    return path


@pytest.mark.parametrize("cuda", ["11.7", None])
def test_the_cuda_of_a_wheel_is_read_from_its_version_file(
    tmp_path: Path, cuda: str | None
) -> None:
    assert torch_cuda(written(tmp_path, torch("2.0.1", cuda))) == cuda


def test_an_assignment_without_annotation_is_read_too(tmp_path: Path) -> None:
    made = wheel("torch", "1", files={"torch/version.py": "a = 1\ncuda = '11.8'\n"})

    assert torch_cuda(written(tmp_path, made)) == "11.8"


@pytest.mark.parametrize(
    "text", ["cuda = open('/tmp/evil', 'w')", "cuda: str", "", "(", "cuda = '\0'", "x" * 100_000]
)
def test_a_version_file_is_never_run(tmp_path: Path, text: str) -> None:
    made = wheel("torch", "1", files={"torch/version.py": text})

    with pytest.raises(ArchiveError, match="does not tell its CUDA"):
        torch_cuda(written(tmp_path, made))


@pytest.mark.parametrize("made", [wheel("torch", "1"), ("torch.whl", b"no zip")])
def test_a_wheel_without_a_version_file_is_refused(tmp_path: Path, made: tuple[str, bytes]) -> None:
    with pytest.raises(ArchiveError, match=r"torch/version\.py"):
        torch_cuda(written(tmp_path, made))


@pytest.mark.parametrize(("named", "built"), [("11.8", "11.7"), ("11.7", None), (None, "13.0")])
def test_a_torch_built_for_another_cuda_is_refused(
    tmp_path: Path, named: str | None, built: str | None
) -> None:
    path = written(tmp_path, torch("2.0.1", built))

    with pytest.raises(LockError, match="`it` do not carry the CUDA that the variant names"):
        check_torch(variant(named), path)


@pytest.mark.parametrize("cuda", ["11.7", None])
def test_a_torch_built_for_the_cuda_of_the_variant_is_taken(
    tmp_path: Path, cuda: str | None
) -> None:
    check_torch(variant(cuda), written(tmp_path, torch("2.0.1", cuda)))


@pytest.mark.parametrize("name", ["nvidia-cublas", "nvidia-nccl-cu11", "cuda-bindings", "triton"])
def test_a_cpu_variant_holds_nothing_of_cuda(name: str) -> None:
    with pytest.raises(LockError, match=f"names no CUDA(.|\n)*`{name}` 1"):
        check_distributions(variant(None), [locked("numpy"), locked(name)])


@pytest.mark.parametrize("name", ["nvidia-cuda-runtime-cu11", "nvidia-cuda-runtime"])
def test_the_cuda_runtime_is_that_of_the_variant(name: str) -> None:
    check_distributions(variant("11.7"), [locked(name, "11.7.99"), locked("triton")])

    with pytest.raises(LockError, match=f"`{name}` 11.70.1"):
        check_distributions(variant("11.7"), [locked(name, "11.70.1")])
