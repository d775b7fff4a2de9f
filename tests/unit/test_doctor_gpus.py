"""What the doctor says of GPUs that are there, and hidden, lost, divided, closed or not ready."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from doctor_machines import Patient, a_system, with_gpus

from torchkiln.doctor.facts import Subject, gather
from torchkiln.doctor.nvidia import cuda_error
from torchkiln.doctor.torch_probe import TorchProbe

if TYPE_CHECKING:
    from pathlib import Path

A100 = "NVIDIA A100-SXM4-40GB"
MIG = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
# nvidia-smi's own lines; the tests change what stands behind the names.
SMI = """\
case "$*" in
    -L) cat "$ROOT/smi-list" ;;
    *mig.mode*) cat "$ROOT/smi-mig" ;;
    *compute_mode*) cat "$ROOT/smi-compute" ;;
    "-mig 0") echo Disabled >"$ROOT/smi-mig" ;;
    "-c DEFAULT") echo Default >"$ROOT/smi-compute" ;;
    *) exit 6 ;;
esac"""


@pytest.fixture
def node(tmp_path: Path) -> Patient:
    """A healthy machine with two GPUs and a torch for CUDA."""
    patient = with_gpus(a_system(tmp_path), A100, A100)
    patient.with_torch("2.7.1+cu126", "12.6")
    patient.program("nvidia-smi", SMI)
    patient.program("cat", 'exec /bin/cat "$@"')
    patient.put("smi-list", f"GPU 0: {A100} (UUID: GPU-1)\nGPU 1: {A100} (UUID: GPU-2)\n")
    patient.put("smi-mig", "Disabled\nDisabled\n")
    patient.put("smi-compute", "Default\nDefault\n")
    return patient


@pytest.mark.parametrize("text", [None, "0", "1,0", "GPU-2"])
def test_devices_that_are_there_are_no_complaint(node: Patient, text: str | None) -> None:
    if text is not None:
        node.environ["CUDA_VISIBLE_DEVICES"] = text

    assert {} == node.complaints()


@pytest.mark.parametrize("text", ["", "-1", "2", "NoDevFiles", "GPU-3", MIG])
def test_a_variable_that_hides_every_gpu_is_unset(node: Patient, text: str) -> None:
    """Failure 20."""
    node.environ["CUDA_VISIBLE_DEVICES"] = text

    assert node.recovers("cuda-visible-devices")


def test_devices_after_one_that_is_not_there_are_hidden(node: Patient) -> None:
    node.environ["CUDA_VISIBLE_DEVICES"] = "0,2,1"

    assert "warning" == node.first().outcome.verdict
    assert node.recovers("cuda-visible-devices")


def test_a_serial_of_a_device_is_not_told(node: Patient) -> None:
    node.environ["CUDA_VISIBLE_DEVICES"] = MIG

    assert "c6d4f1ef" not in str(node.examine())


@pytest.mark.parametrize("text", ["", "-1"])
def test_a_torch_for_cpus_may_have_them_hidden(node: Patient, text: str) -> None:
    node.with_torch("2.7.1+cpu", None)
    node.environ["CUDA_VISIBLE_DEVICES"] = text

    assert "cuda-visible-devices" not in node.complaints()


def test_a_gpu_in_mig_mode_without_instances_is_made_whole(node: Patient) -> None:
    node.put("smi-mig", "Enabled\nEnabled\n")

    assert node.recovers("mig-instances")


def test_a_gpu_in_mig_mode_with_instances_is_well(node: Patient) -> None:
    node.put("smi-mig", "Enabled\n")
    node.put("smi-list", f"GPU 0: {A100} (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: {MIG})\n")
    node.environ["CUDA_VISIBLE_DEVICES"] = MIG

    assert {} == node.complaints()


def test_gpus_closed_to_computing_are_opened(node: Patient) -> None:
    node.put("smi-compute", "Prohibited\nProhibited\n")

    assert node.recovers("compute-mode")


def test_the_exclusive_mode_of_clusters_is_well(node: Patient) -> None:
    node.put("smi-compute", "Exclusive_Process\n")

    assert {} == node.complaints()


def test_a_lost_gpu_needs_a_reboot(node: Patient) -> None:
    lost = "Unable to determine the device handle for GPU0000:03:00.0: Unknown Error\n"
    node.put("smi-list", lost)
    node.program("reboot", ': >"$ROOT/smi-list"')

    assert node.recovers("gpu-lost")


START = 'mkdir -p "$ROOT/proc/70"; echo nv-fabricmanage >"$ROOT/proc/70/comm"'


@pytest.mark.parametrize("installed", [True, False])
def test_switches_without_their_manager(node: Patient, *, installed: bool) -> None:
    """Failure 13: error 802 on machines with NVSwitches."""
    node.put("dev/nvidia-nvswitch0")
    if installed:
        node.put("usr/bin/nv-fabricmanager")
    node.program(
        "apt-get",
        '[ "$*" = "install -y nvidia-fabricmanager-535" ] && : >"$ROOT/usr/bin/nv-fabricmanager"'
        if not installed
        else "exit 1",
    )
    (node.root / "usr/bin").mkdir(exist_ok=True)
    node.program(
        "systemctl",
        f'case "$*" in *manager) [ -e "$ROOT/usr/bin/nv-fabricmanager" ] && {START} ;; esac',
    )

    assert node.recovers("fabric-manager")
    assert {} == node.complaints()


def test_a_container_does_not_see_the_manager_of_its_host(node: Patient) -> None:
    node.put("dev/nvidia-nvswitch0")
    node.put(".dockerenv")
    node.put("dev/shm/x")

    assert "fabric-manager" not in node.complaints()


def test_error_802_is_enough_in_a_container(node: Patient) -> None:
    said = "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet"
    node.put(".dockerenv")
    node.torch = TorchProbe(version="2.7.1", cuda="12.6", error=said)

    assert "fabric-manager" == node.first().check.id


def test_error_999_with_a_device_node_loads_the_module_anew(node: Patient) -> None:
    """A suspend leaves nvidia_uvm broken: pytorch/pytorch issue 49081."""
    output = "UserWarning: CUDA initialization: CUDA unknown error ... Error 999: unknown error\n"
    node.torch = TorchProbe(version="2.7.1", cuda="12.6", output=output)

    assert "nvidia-uvm" == node.first().check.id
    assert node.first().outcome.remedy.endswith("modprobe nvidia_uvm")


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_libcuda_itself_is_asked_where_torch_says_nothing(tmp_path: Path) -> None:
    """A real library with cuInit, on the LD_LIBRARY_PATH of this very machine."""
    (tmp_path / "cuda.c").write_text("int cuInit(unsigned flags) { return 802; }\n")
    command = ["cc", "-shared", "-fPIC", "-o", f"{tmp_path}/libcuda.so.1", f"{tmp_path}/cuda.c"]
    subprocess.run(command, check=True)
    facts = gather(Subject(environ={"LD_LIBRARY_PATH": str(tmp_path), "PATH": ""}, python=None))

    assert 802 == cuda_error(facts)


@pytest.fixture
def unloaded(tmp_path: Path) -> Patient:
    """A machine with a GPU on the bus and a torch for CUDA, and no driver loaded."""
    patient = a_system(tmp_path)
    patient.put("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    patient.put("sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n")
    patient.with_torch("2.7.1+cu126", "12.6")
    return patient


LOADED = 'mkdir -p "$ROOT/sys/module/nvidia" && echo 535.104.05 >"$ROOT/sys/module/nvidia/version"'
BUILT = "lib/modules/6.1.0-18-amd64/updates/dkms/nvidia.ko"


@pytest.mark.parametrize(
    ("files", "programs"),
    [
        ({}, {"apt-get": f'[ "$*" = "install -y nvidia-driver" ] && {LOADED}'}),
        ({BUILT: ""}, {"modprobe": f'[ "$1" = nvidia ] && {LOADED}'}),
        (
            {"lib/modules/6.1.0-17-amd64/updates/dkms/nvidia.ko.xz": ""},
            {
                "dkms": '[ "$1" = autoinstall ] && : >"$ROOT/dkms-built"',
                "modprobe": f'[ -e "$ROOT/dkms-built" ] && {LOADED}',
            },
        ),
        (
            {BUILT: "", "sys/module/nouveau/refcnt": "1"},
            {
                "tee": '[ "$1" = /etc/modprobe.d/nouveau-off.conf ] && exec /bin/cat >"$ROOT/off"',
                "reboot": f'grep -q "^blacklist nouveau" "$ROOT/off" && {LOADED}',
            },
        ),
        (
            {
                BUILT: "",
                "sys/firmware/efi/efivars/SecureBoot-8be4df61": "\x06\0\0\0\x01",
                "var/lib/shim-signed/mok/MOK.der": "",
            },
            {
                "mokutil": '[ "$*" = "--import /var/lib/shim-signed/mok/MOK.der" ]',
                "reboot": LOADED,
            },
        ),
    ],
    ids=["no driver", "not loaded", "another kernel", "nouveau", "Secure Boot"],
)
def test_a_gpu_without_its_driver(
    unloaded: Patient, files: dict[str, str], programs: dict[str, str]
) -> None:
    for name, text in files.items():
        unloaded.put(name, text)
    for name, body in programs.items():
        unloaded.program(name, body)

    assert unloaded.recovers("driver-not-loaded")


def test_a_torch_for_cpus_needs_no_driver(unloaded: Patient) -> None:
    unloaded.with_torch("2.7.1+cpu", None)

    assert {} == unloaded.complaints()
