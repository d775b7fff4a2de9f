"""What interrupted installations leave, and what of CUDA's libraries is another one or missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from doctor_environments import TORCH, Venv, make, make_prefix, plain, torch_wheel, wheel

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.doctor.environment import Installed

CUDNN = 'nvidia-cudnn-cu12 (==9.1.0.70) ; platform_system == "Linux"'
MISFIT = (
    "cuDNN version incompatibility: PyTorch was compiled  against (9, 1, 0)"
    " but found runtime version (8, 9, 2)"
)
# What torch does that compares its cuDNN with the one that the loader has found.
COMPARES = TORCH.replace("staticmethod(lambda: 8500)", "staticmethod(lambda: compare())") + (
    f"""\
import mmap, os
here = os.path.dirname(os.path.dirname(__file__))
def compare():
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(":") + [here + "/nvidia/cudnn/lib"]
    found = [one + "/libcudnn.so.9" for one in folders if os.path.exists(one + "/libcudnn.so.9")]
    with open(found[0], "rb") as file:
        kept = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    if b"9.1" not in kept[:]:
        raise RuntimeError("{MISFIT}. PyTorch already comes bundled with cuDNN. One option ...")
"""
)


@pytest.fixture
def environment(tmp_path: Path) -> Venv:
    return make(tmp_path)


def cudnn_wheel(folder: Path, version: str, library: str) -> Path:
    """Write the wheel of a cuDNN whose library is `library`."""
    files = {"nvidia/cudnn/lib/libcudnn.so.9": library}
    return wheel(folder, "nvidia_cudnn_cu12", version, files)


def put_aside(environment: Venv, name: str, version: str) -> None:
    """Do what pip begins an upgrade with: it renames what it will remove in the end."""
    for old in (name, f"{name}-{version}.dist-info"):
        (environment.site / old).rename(environment.site / f"~{old[1:]}")


def test_a_torch_that_an_interrupted_pip_took_away_comes_back(environment: Venv) -> None:
    environment.install(torch_wheel(environment.wheels, "2.13.0+cpu", None))
    put_aside(environment, "torch", "2.13.0+cpu")

    assert "torch is no longer there" in environment.examine()[0].outcome.evidence
    assert environment.recovers("leftovers")
    assert {} == environment.complaints()
    assert [] == list(environment.site.glob("~*"))


def test_what_an_upgrade_left_beside_the_new_torch_is_removed_and_no_more(
    environment: Venv,
) -> None:
    environment.install(torch_wheel(environment.wheels, "2.12.0+cpu", None))
    put_aside(environment, "torch", "2.12.0+cpu")
    environment.install(torch_wheel(environment.wheels, "2.13.0+cpu", None))

    assert ["leftovers"] == list(environment.complaints())
    remedy = environment.examine()[0].outcome.remedy
    assert "pip" not in remedy
    environment.mend(remedy)
    assert {} == environment.complaints()


@pytest.mark.parametrize("recorded", [True, False])
def test_of_two_versions_in_one_folder_the_newer_is_installed_alone(
    environment: Venv,
    *,
    recorded: bool,
) -> None:
    """Files that the older one alone has would be imported with those of the newer."""
    old = {"numpy/__init__.py": "x = 1\n", "numpy/core/old.py": ""}
    environment.install(wheel(environment.wheels, "numpy", "1.26.4", old))
    environment.install(plain(environment.wheels, "numpy", "2.4.6"))
    older = environment.site / "numpy-1.26.4.dist-info"
    if not recorded:
        (older / "RECORD").unlink()
    os.utime(older, (0, 0))

    found = environment.examine()[0].outcome
    assert "numpy 2.4.6 and 1.26.4 are both in" in found.evidence
    # Which of the two pip takes first is the folder's order.
    assert 1 + recorded == found.remedy.count("pip uninstall")
    assert environment.recovers("versions")
    assert {} == environment.complaints()
    assert recorded is not (environment.site / "numpy/core/old.py").exists()
    assert "2.4.6" in (environment.site / "numpy/__init__.py").read_text()


def test_a_folder_that_is_on_the_path_twice_has_one_version(environment: Venv) -> None:
    environment.install(plain(environment.wheels, "numpy", "2.4.6"))
    (environment.site / "again.pth").write_text(f"{environment.site}/../site-packages\n")

    assert {} == environment.complaints()


def test_a_cudnn_of_the_path_that_does_not_fit_is_taken_off_it(
    environment: Venv, tmp_path: Path
) -> None:
    environment.install(torch_wheel(environment.wheels, "2.6.0", "12.4", COMPARES, [CUDNN]))
    environment.install(cudnn_wheel(environment.wheels, "9.1.0.70", "9.1"))
    assert {} == environment.complaints()
    for name, library in (("wrong", "8.9"), ("rest", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "libcudnn_ops.so.9").write_text(library)
    (tmp_path / "wrong/libcudnn.so.9").write_text("8.9")
    environment.environ["LD_LIBRARY_PATH"] = f"{tmp_path}/wrong:{tmp_path}/rest"

    first = environment.examine()[0]
    assert f"{MISFIT} ({tmp_path}/wrong/libcudnn.so.9)" == first.outcome.evidence
    assert environment.recovers("cudnn")
    assert f"{tmp_path}/rest" == environment.environ["LD_LIBRARY_PATH"]


def test_a_cudnn_of_a_wheel_that_does_not_fit_is_installed_again(environment: Venv) -> None:
    """As after `pip install` of something that has files of the same names."""
    environment.install(torch_wheel(environment.wheels, "2.6.0", "12.4", COMPARES, [CUDNN]))
    environment.install(cudnn_wheel(environment.wheels, "9.1.0.70", "9.1"))
    (environment.site / "nvidia/cudnn/lib/libcudnn.so.9").write_text("8.9")

    assert environment.recovers("cudnn")


def test_another_error_of_cudnn_is_no_failure_of_the_import(environment: Venv) -> None:
    body = TORCH.replace("lambda: 8500", "lambda: 1 // 0")
    environment.install(torch_wheel(environment.wheels, "2.6.0", "12.4", body))

    assert {} == environment.complaints()


TOOLKIT = ("cuda-toolkit[cudart,cublas]==13.0.2; platform_system == 'Linux'", "triton==3.5.0")


@pytest.mark.parametrize(
    ("wrong", "evidence"),
    [
        ({"triton": "3.4.0"}, "torch requires triton==3.5.0, and 3.4.0 is there"),
        (
            {"nvidia_cuda_runtime": "12.9.79"},
            "torch requires nvidia-cuda-runtime==13.0.*, and 12.9.79 is there",
        ),
        (
            {"cuda_toolkit": "13.1.0"},
            "torch requires cuda-toolkit[cudart,cublas]==13.0.2, and 13.1.0 is there",
        ),
    ],
)
def test_what_torch_requires_of_cuda_by_way_of_others_is_put_right(
    environment: Venv, wrong: dict[str, str], evidence: str
) -> None:
    right = {"triton": "3.5.0", "nvidia_cuda_runtime": "13.0.96", "cuda_toolkit": "13.0.2"}
    needs = ("nvidia-cuda-runtime==13.0.*; extra == 'cudart'", "nvidia-nccl==9; extra == 'nccl'")

    def packed(name: str, version: str) -> Path:
        files = {f"{name}/__init__.py": ""}
        requires = needs if name == "cuda_toolkit" else ()
        return wheel(environment.wheels, name, version, files, requires)

    environment.install(torch_wheel(environment.wheels, "2.10.0", "13.0", TORCH, TOOLKIT))
    for name, version in (right | wrong).items():
        environment.install(packed(name, version))
    for name, version in right.items():
        packed(name, version)

    assert {"cuda-wheels": evidence} == environment.complaints()
    assert environment.recovers("cuda-wheels")
    assert {} == environment.complaints()


def test_what_torch_requires_elsewhere_is_not_missing_here(environment: Venv) -> None:
    elsewhere = [
        "nvidia-cudnn-cu12==9; platform_machine == 'sparc'",
        "triton==1; platform_system == 'Windows'",
        "nvidia-x==1; extra == 'all'",
    ]
    environment.install(torch_wheel(environment.wheels, "2.6.0", "12.4", TORCH, elsewhere))

    assert {} == environment.complaints()


def managed(tmp_path: Path) -> Venv:
    """Make a Python that its distribution manages, with NumPy 2 beside an old torch in it."""
    system = make_prefix(tmp_path)
    (system.folder / "conda-meta").rmdir()
    (system.site.parent / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=no\n")
    system.install(torch_wheel(system.wheels, "2.0.1", "11.7"))
    system.install(plain(system.wheels, "numpy", "2.4.6"))
    plain(system.wheels, "numpy", "1.26.4")
    return system


def test_beside_a_python_of_the_distribution_an_environment_is_made(tmp_path: Path) -> None:
    """PEP 668: its pip refuses, and says that one is to be made."""
    system = managed(tmp_path)
    with pytest.raises(AssertionError, match="externally-managed-environment"):
        system.mend(f"{system.python} -m pip install 'numpy<2'")

    first = system.examine()[0]
    assert "numpy-abi" == first.check.id
    system.mend(first.outcome.remedy)

    made = Venv(folder=tmp_path / "torch-env", root=system.root, wheels=system.wheels)
    made.environ = {"PATH": f"{system.tools}:{os.defpath}"}
    assert {} == made.complaints()
    assert {"torch", "numpy"} <= {one.name for one in installed(made)}


def test_pip_is_used_there_by_who_tells_it_to(tmp_path: Path) -> None:
    system = managed(tmp_path)
    system.environ["PIP_BREAK_SYSTEM_PACKAGES"] = "1"

    assert system.recovers("numpy-abi")


def installed(environment: Venv) -> list[Installed]:
    found = environment.facts().environment
    assert found
    return list(found.installed)
