"""What the doctor says of GPUs that a process, or a container, cannot reach."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from doctor_machines import LIB, Patient, a_system, with_gpus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# As the runtimes do it: what was asked for is put into the container.
GIVE_LIBCUDA = f"mkdir -p $ROOT/{LIB}; printf '\\177ELF\\002' >$ROOT/{LIB}/libcuda.so.1"
GIVE_NODES = "for name in 0 ctl -uvm; do : >$ROOT/dev/nvidia$name; done"


@pytest.fixture
def node(tmp_path: Path) -> Patient:
    """A healthy machine with two GPUs and a torch for CUDA."""
    patient = with_gpus(a_system(tmp_path), "NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB")
    patient.with_torch("2.7.1+cu126", "12.6")
    return patient


def without_libcuda(node: Patient) -> None:
    shutil.rmtree(node.root / LIB)


def in_container(node: Patient, kind: str) -> None:
    """Make the machine a container of the kind, by the signs that each leaves."""
    if kind == "apptainer":
        node.environ["APPTAINER_CONTAINER"] = "/images/torch.sif"
    elif kind == "charliecloud":
        node.environ["CH_RUNNING"] = "Weird Al Yankovic"
    elif kind == "kubernetes":
        node.environ["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"
    else:
        node.put({"docker": ".dockerenv", "podman": "run/.containerenv"}[kind])


RUNTIMES = [
    ("docker", "docker", '[ "$1 $2 $3" = "run --gpus all" ]'),
    ("podman", "podman", '[ "$1 $2 $3" = "run --device nvidia.com/gpu=all" ]'),
    ("apptainer", "apptainer", '[ "$1 $2" = "exec --nv" ]'),
    ("charliecloud", "ch-fromhost", '[ "$1" = --nvidia ]'),
    ("kubernetes", "kubectl", 'case "$*" in *runtimeClassName*) true ;; *) false ;; esac'),
]


@pytest.mark.parametrize(("kind", "client", "asked"), RUNTIMES)
def test_a_container_without_libcuda_is_started_with_it(
    node: Patient, kind: str, client: str, asked: str
) -> None:
    """Failure 9: device nodes were passed on by hand, and the driver's libraries were not."""
    without_libcuda(node)
    in_container(node, kind)
    node.program(client, f"{asked} && {{ {GIVE_LIBCUDA}; }}")

    assert node.recovers("libcuda-missing")


@pytest.mark.parametrize(("kind", "client", "asked"), RUNTIMES)
def test_a_container_without_its_hosts_gpus_is_started_with_them(
    node: Patient, kind: str, client: str, asked: str
) -> None:
    """The kernel's files show the driver of the host in every container."""
    without_libcuda(node)
    shutil.rmtree(node.root / "dev")
    (node.root / "dev").mkdir()
    in_container(node, kind)
    node.program(client, f"{asked} && {{ {GIVE_NODES}; {GIVE_LIBCUDA}; }}")

    assert node.recovers("gpu-devices-missing")
    assert {} == node.complaints()


def test_a_container_for_cpus_on_a_host_with_gpus_is_well(node: Patient) -> None:
    node.with_torch("2.7.1+cpu", None)
    without_libcuda(node)
    shutil.rmtree(node.root / "dev")
    in_container(node, "docker")

    assert {} == node.complaints()


def test_capabilities_without_compute_are_named(node: Patient) -> None:
    without_libcuda(node)
    in_container(node, "docker")
    node.environ["NVIDIA_DRIVER_CAPABILITIES"] = "graphics,utility"
    given = f'case "$*" in *CAPABILITIES=compute,utility*) {GIVE_LIBCUDA} ;; esac'
    node.program("docker", given)

    assert node.recovers("libcuda-missing")


@pytest.mark.parametrize(
    "folder", ["usr/lib/wsl/lib", "usr/local/nvidia/lib64", ".singularity.d/libs"]
)
def test_a_libcuda_where_the_loader_does_not_look_is_shown_to_it(
    node: Patient, folder: str
) -> None:
    """WSL, GKE and Apptainer each have a folder of their own."""
    without_libcuda(node)
    node.library("libcuda.so", "535.104.05", folder)

    assert node.recovers("libcuda-missing")
    assert f"/{folder}" == node.environ["LD_LIBRARY_PATH"]


def test_a_libcuda_of_32_bits_is_none(node: Patient) -> None:
    without_libcuda(node)
    node.put("usr/lib/libcuda.so.1", "\x7fELF\x01")
    node.program("apt-get", f'[ "$*" = "install -y libcuda1" ] && {{ {GIVE_LIBCUDA}; }}')

    assert node.recovers("libcuda-missing")


def test_in_wsl_the_driver_is_that_of_windows(tmp_path: Path) -> None:
    patient = a_system(tmp_path)
    patient.put("dev/dxg")
    patient.program("wsl.exe", f'[ "$1" = --update ] && {{ {GIVE_LIBCUDA}; }}')

    assert patient.recovers("libcuda-missing")


@pytest.fixture
def denied(node: Patient) -> Iterator[Patient]:
    """A container whose /dev/nvidiactl cannot be opened, not even by root.

    An immutable file is refused as a device is which a cgroup denies: EPERM.
    """
    file = node.root / "dev/nvidiactl"
    done = subprocess.run(["chattr", "+i", file], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root makes a file immutable, and not everywhere")
    in_container(node, "docker")
    yield node
    subprocess.run(["chattr", "-i", file], capture_output=True, check=True)


def test_a_container_that_has_lost_its_devices_is_started_again(denied: Patient) -> None:
    """Failure 11: `Unknown Error` of NVML after `systemctl daemon-reload` on the host."""
    file = denied.root / "dev/nvidiactl"
    denied.program("docker", f'[ "$1" = restart ] && /usr/bin/chattr -i {file}')

    assert denied.recovers("gpu-devices-denied")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open any file")
def test_devices_of_root_alone_are_opened_to_all(node: Patient) -> None:
    (node.root / "dev/nvidiactl").chmod(0)
    node.program("chmod", 'exec /bin/chmod a+rw "$ROOT/dev/nvidiactl"')

    assert node.recovers("gpu-devices-denied")


def test_a_job_that_was_given_one_gpu_of_two_is_well(node: Patient) -> None:
    """Opening a folder is refused to root too, with another error."""
    (node.root / "dev/nvidia1").unlink()
    (node.root / "dev/nvidia1").mkdir()

    assert {} == node.complaints()


def test_a_job_without_a_gpu_is_to_ask_for_one(node: Patient) -> None:
    for name in ("dev/nvidia0", "dev/nvidia1"):
        (node.root / name).unlink()
        (node.root / name).mkdir()
    node.environ["SLURM_JOB_ID"] = "7"
    node.program(
        "srun", '[ "$1" = --gres=gpu:1 ] && rmdir "$ROOT/dev/nvidia0" && : >"$ROOT/dev/nvidia0"'
    )

    assert node.recovers("gpu-devices-denied")


def test_a_job_without_a_gpu_and_a_torch_for_cpus_are_well(node: Patient) -> None:
    node.with_torch("2.7.1+cpu", None)
    for name in ("dev/nvidia0", "dev/nvidia1"):
        (node.root / name).unlink()
        (node.root / name).mkdir()
    node.environ["SLURM_JOB_ID"] = "7"

    assert {} == node.complaints()


def test_a_gpu_that_no_longer_answers_needs_a_reboot(node: Patient) -> None:
    """The kernel says ENODEV or EIO; here it is the EISDIR of a folder."""
    for name in ("dev/nvidia0", "dev/nvidia1"):
        (node.root / name).unlink()
        (node.root / name).mkdir()
    node.program("reboot", 'rmdir "$ROOT"/dev/nvidia? && : >"$ROOT/dev/nvidia0"')

    assert node.recovers("gpu-devices-denied")


@pytest.mark.parametrize("installed", [True, False])
def test_unified_memory_without_its_device(node: Patient, *, installed: bool) -> None:
    """CUDA starts with error 999 until nvidia-modprobe has made the node."""
    (node.root / "dev/nvidia-uvm").unlink()
    if installed:
        node.put("usr/bin/nvidia-modprobe").chmod(0o755)
    node.program("apt-get", 'mkdir -p "$ROOT/usr/bin" && : >"$ROOT/usr/bin/nvidia-modprobe"')
    node.program("nvidia-modprobe", ': >"$ROOT/dev/nvidia-uvm"')

    assert node.recovers("nvidia-uvm")


def test_device_nodes_that_cuda_will_make_are_no_complaint(node: Patient) -> None:
    """After a boot there are none until the first program that uses CUDA."""
    shutil.rmtree(node.root / "dev")
    node.put("usr/bin/nvidia-modprobe").chmod(0o4755)

    assert {} == node.complaints()


def test_device_nodes_that_nothing_makes(node: Patient) -> None:
    shutil.rmtree(node.root / "dev")
    (node.root / "dev").mkdir()
    node.put("usr/bin/nvidia-modprobe").chmod(0o755)
    node.program("nvidia-modprobe", GIVE_NODES)

    assert node.recovers("gpu-devices-missing")
