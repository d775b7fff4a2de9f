"""What the doctor says of a driver's module and libraries, and of torch's CUDA beside them."""

from __future__ import annotations

import os
import subprocess
import venv
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from doctor_machines import ELF, LIB, Patient, a_system, with_gpus
from package_index import index, wheel
from servers import serving

from torchkiln.doctor.environment import examine
from torchkiln.doctor.torch_probe import TorchProbe

DRIVER = "535.104.05"


@pytest.fixture
def node(tmp_path: Path) -> Patient:
    """A healthy machine with an A100 and the torch that its driver runs."""
    patient = with_gpus(a_system(tmp_path), "NVIDIA A100-SXM4-40GB", driver=DRIVER)
    patient.with_torch("2.7.1+cu126", "12.6")
    return patient


def test_a_driver_that_fits_is_no_complaint(node: Patient) -> None:
    assert {} == node.complaints()


def test_a_driver_that_was_updated_under_its_loaded_module(node: Patient) -> None:
    """Failure 10: apt has put new libraries beside the module of before."""
    for name in ("libcuda.so", "libnvidia-ml.so"):
        node.library(name, "535.230.02")
    load = 'case "$*" in nvidia) echo 535.230.02 > "$ROOT/sys/module/nvidia/version" ;; esac'
    node.program("modprobe", load)

    assert node.recovers("driver-mismatch")


def test_a_container_with_the_libraries_of_another_driver_is_started_again(node: Patient) -> None:
    node.put(".dockerenv")
    node.put("sys/module/nvidia/version", "550.54.15\n")
    node.program("docker", f'echo {DRIVER} > "$ROOT/sys/module/nvidia/version"')

    assert node.recovers("driver-mismatch")


@pytest.mark.parametrize(
    ("machine", "torch", "tag"),
    [
        ((DRIVER, "NVIDIA A100-SXM4-40GB"), ("2.13.0", "13.0"), "cu126"),
        ((DRIVER, "Tesla V100-SXM2-16GB"), ("2.7.1", "13.0"), "cu126"),
        (("470.82.01", "Tesla V100-SXM2-16GB"), ("2.7.1", "12.8"), "cu118"),
        (("470.82.01", "NVIDIA A100-SXM4-40GB"), ("2.13.0", "13.0"), "cu118"),
        (("575.57.08", "NVIDIA B200"), ("2.13.0", "13.2"), "cu129"),
        (("575.57.08", "NVIDIA B200"), ("2.9.1", "13.0"), "cu129"),
    ],
)
def test_a_driver_too_old_for_torch_gets_the_build_for_driver_and_gpu(
    tmp_path: Path, machine: tuple[str, str], torch: tuple[str, str], tag: str
) -> None:
    """Failure 2: cu118 has no code for a B200, and cu128 of 2.7.1 none for a V100."""
    driver, model = machine
    release, cuda = torch
    patient = with_gpus(a_system(tmp_path), model, driver=driver)
    patient.with_torch(f"{release}+cu{cuda.replace('.', '')}", cuda)

    assert f"/whl/{tag} " in patient.first().outcome.remedy
    assert patient.recovers("driver-too-old")


def test_the_release_stays_where_its_index_has_it(node: Patient) -> None:
    node.with_torch("2.9.1+cu130", "13.0")

    assert node.first().outcome.remedy.endswith("/whl/cu129 torch==2.9.1+cu129")


def test_vision_and_audio_change_with_torch(node: Patient) -> None:
    node.with_torch("2.9.1+cu130", "13.0")
    node.add("torchvision", "0.24.1+cu130")

    ending = "/whl/cu129 torch==2.9.1+cu129 torchvision==0.24.1+cu129"
    assert node.first().outcome.remedy.endswith(ending)


def test_uv_replaces_the_torch_of_uv(node: Patient) -> None:
    node.with_torch("2.9.1", "13.0", installer="uv")

    assert node.first().outcome.remedy.startswith("uv pip install --python ")


@pytest.mark.parametrize("program", ["conda", "micromamba"])
def test_conda_replaces_the_torch_of_conda(node: Patient, program: str) -> None:
    node.with_torch("2.9.1", "13.0", installer="conda")
    assert node.environment
    node.environment = replace(node.environment, prefix=node.root)
    node.put("conda-meta/history")
    node.program(program, "true")

    words = "--channel conda-forge pytorch cuda-version=12.9"
    expected = f"{program} install --yes --prefix {node.root} {words}"
    assert expected == node.first().outcome.remedy


def test_a_driver_too_old_for_any_build_is_to_be_replaced(tmp_path: Path) -> None:
    patient = with_gpus(a_system(tmp_path), "Tesla T4", driver="440.33.01")
    patient.with_torch("2.7.1+cu118", "11.8")
    patient.program(
        "apt-get",
        """[ "$*" = "install -y nvidia-driver" ] || exit 1
        for file in sys/module proc/driver; do echo 535.230.02 > "$ROOT/$file/nvidia/version"; done
        for name in libcuda libnvidia-ml; do
            rm "$ROOT/usr/lib/x86_64-linux-gnu/$name".*
            printf '\\177ELF\\002' > "$ROOT/usr/lib/x86_64-linux-gnu/$name.so.1"
        done""",
    )

    assert patient.recovers("driver-too-old")


def test_cuda_compat_makes_an_old_driver_of_a_data_centre_new_enough(node: Patient) -> None:
    node.with_torch("2.9.1+cu130", "13.0")
    node.library("libcuda.so", "580.65.06", "usr/local/cuda/compat/lib")
    node.environ["LD_LIBRARY_PATH"] = "/usr/local/cuda/compat/lib"

    assert {} == node.complaints()


@pytest.mark.parametrize("rest", ["", "/opt/lib"])
def test_a_compat_libcuda_older_than_the_driver_leaves_the_path(node: Patient, rest: str) -> None:
    """Failure 12: error 803, as in the images that put cuda-compat on LD_LIBRARY_PATH."""
    node.library("libcuda.so", "525.60.13", "usr/local/cuda/compat")
    folders = ["/usr/local/cuda/compat", *filter(None, [rest])]
    node.environ["LD_LIBRARY_PATH"] = ":".join(folders)

    assert node.recovers("cuda-compat")
    assert rest == node.environ.get("LD_LIBRARY_PATH", "")


def test_a_compat_libcuda_in_the_linker_cache_is_overruled(node: Patient) -> None:
    """A file in /etc/ld.so.conf.d comes before the loader's own folders."""
    node.library("libcuda.so", "525.60.13", "usr/local/cuda/compat")
    node.put("etc/ld.so.cache", "glibc-ld\0libcuda.so.1\0/usr/local/cuda/compat/libcuda.so.1\0")

    assert node.recovers("cuda-compat")
    assert f"/{LIB}" == node.environ["LD_LIBRARY_PATH"]


def test_compat_newer_than_the_driver_is_not_for_a_geforce(tmp_path: Path) -> None:
    """Error 804: forward compatibility is for the GPUs of data centres."""
    patient = with_gpus(a_system(tmp_path), "NVIDIA GeForce RTX 3090", driver=DRIVER)
    patient.with_torch("2.7.1+cu126", "12.6")
    patient.library("libcuda.so", "560.35.03", "usr/local/cuda/compat")
    patient.environ["LD_LIBRARY_PATH"] = "/usr/local/cuda/compat"

    assert patient.recovers("cuda-compat")


@pytest.mark.parametrize("error", [803, 804])
def test_what_cuda_says_counts_where_libcuda_tells_no_version(node: Patient, error: int) -> None:
    node.put("opt/compat/libcuda.so.1", ELF)
    node.environ["LD_LIBRARY_PATH"] = "/opt/compat"
    said = f"RuntimeError: Unexpected error from cudaGetDeviceCount(). Error {error}: driver"
    node.torch = TorchProbe(version="2.7.1", cuda="12.6", error=said)

    assert "cuda-compat" == node.first().check.id
    assert "unset LD_LIBRARY_PATH" == node.first().outcome.remedy


def test_pip_itself_replaces_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real pip keeps what is there, unless told by a pin or by force: to the older CUDA."""
    python = a_venv(tmp_path / "venv")
    wheels = index(a_torch("2.7.1+cu118", "11.8"))
    served = {
        name.replace("/simple/", "/cu118/").replace("+", "%2B"): one for name, one in wheels.items()
    }
    patient = with_gpus(a_system(tmp_path), "Tesla V100-SXM2-16GB", driver="470.82.01")
    patient.environ["PIP_CONFIG_FILE"] = os.devnull
    with serving(served) as server:
        monkeypatch.setattr("torchkiln.doctor.installer.INDEX", server.url)
        for release, cuda in (("2.7.1+cu126", "12.6"), ("2.13.0+cu130", "13.0")):
            name, data = a_torch(release, cuda)
            (tmp_path / name).write_bytes(data)
            pip = [python, "-m", "pip", "install", "-q", "--no-index", str(tmp_path / name)]
            subprocess.run(pip, check=True)
            patient.environment = examine(Path(python), {}, 60)

            assert "driver-too-old" == patient.first().check.id
            patient.mend(patient.first().outcome.remedy)
            patient.environment = examine(Path(python), {}, 60)
            assert "ok" == patient.find("driver-too-old").outcome.verdict


def a_venv(folder: Path) -> str:
    """Return the Python of a new environment, with the pip of this one, which is quick."""
    venv.create(folder, symlinks=True)
    found = find_spec("pip")
    assert found
    assert found.submodule_search_locations
    (site,) = folder.glob("lib/python3.*/site-packages")
    package = Path(found.submodule_search_locations[0])
    for one in (package, *package.parent.glob("pip-*.dist-info")):
        (site / one.name).symlink_to(one)
    return f"{folder}/bin/python"


def a_torch(version: str, cuda: str) -> tuple[str, bytes]:
    """Return a wheel that any Python takes."""
    return wheel("torch", version, files={"torch/version.py": f"cuda: Optional[str] = '{cuda}'\n"})
