"""What a machine shows of its GPUs: file systems as drivers make them, real NVML and nvidia-smi.

NVML is a shared library with NVIDIA's names that is compiled here, and nvidia-smi a script.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from torchkiln.machine import Machine, this_machine

if TYPE_CHECKING:
    from pathlib import Path

CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Wed Aug 16 01:32:10 UTC 2023\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n"
NVML = """\
#include <stdio.h>
#include <string.h>
typedef struct { int index; } *Device;
static const char *names[] = {"Tesla P100-PCIE-16GB", "NVIDIA A100-SXM4-40GB"};
static const int majors[] = {6, 8};
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(long)(index + 1);
    return 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    strncpy(name, names[(long)device - 1], length);
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    *major = majors[(long)device - 1];
    *minor = 0;
    return 0;
}
int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    strncpy(version, "535.104.05", length);
    return 0;
}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    return tmp_path


def environ(root: Path) -> dict[str, str]:
    """Return the environment of a process that finds the programs and libraries of `root`."""
    return {"PATH": f"{root}/bin", "LD_LIBRARY_PATH": str(root), "HOME": str(root)}


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def smi(root: Path, body: str) -> None:
    put(root, "bin/nvidia-smi", f"#!/bin/sh\n{body}\n")
    (root / "bin/nvidia-smi").chmod(0o755)


def look(root: Path) -> Machine:
    return this_machine(environ(root), root)


def shown(machine: Machine) -> tuple[str | None, list[str]]:
    return machine.driver.text if machine.driver else None, [str(one) for one in machine.gpus]


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_nvml_tells_every_gpu(root: Path) -> None:
    put(root, "nvml.c", NVML)
    command = ["cc", "-shared", "-fPIC", "-o", f"{root}/libnvidia-ml.so.1", f"{root}/nvml.c"]
    subprocess.run(command, check=True)
    put(root, "sys/module/nvidia/version", "535.104.05\n")

    gpus = ["Tesla P100-PCIE-16GB (6.0)", "NVIDIA A100-SXM4-40GB (8.0)"]
    assert ("535.104.05", gpus) == shown(look(root))


def test_nvidia_smi_is_asked_where_there_is_no_nvml(root: Path) -> None:
    smi(root, 'echo "550.54.15, NVIDIA H100 80GB HBM3, 9.0"')

    assert ("550.54.15", ["NVIDIA H100 80GB HBM3 (9.0)"]) == shown(look(root))


def test_an_old_nvidia_smi_tells_names_and_the_table_the_rest(root: Path) -> None:
    smi(root, 'case "$1" in *compute_cap*) exit 6 ;; esac; echo "450.80.02, Tesla V100-SXM2-16GB"')

    assert ("450.80.02", ["Tesla V100-SXM2-16GB (7.0)"]) == shown(look(root))


@pytest.mark.parametrize(("text", "version"), [(CLOSED, "535.104.05"), (OPEN, "550.54.15")])
def test_the_kernel_module_is_enough(root: Path, text: str, version: str) -> None:
    put(root, "proc/driver/nvidia/version", text)
    put(root, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t Tesla T4\nIRQ: 1\n")

    assert (version, ["Tesla T4 (7.5)"]) == shown(look(root))


def test_a_program_that_hangs_or_fails_is_done_without(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchkiln.machine._PATIENCE", 0.5)
    smi(root, "exec sleep 60")
    (root / "bin/sleep").symlink_to("/bin/sleep")
    put(root, "sys/module/nvidia/version", "535.104.05\n")
    put(root, "proc/driver/nvidia/gpus/0/information", "Model: \t GPU of 2030\n")

    assert ("535.104.05", ["GPU of 2030"]) == shown(look(root))


def test_devices_without_a_driver_are_counted(root: Path) -> None:
    for number, (vendor, kind) in enumerate(
        [
            ("0x10de", "0x030200"),
            ("0x10de", "0x030000"),
            ("0x10de", "0x0c0330"),
            ("0x8086", "0x030000"),
        ]
    ):
        put(root, f"sys/bus/pci/devices/{number}/vendor", f"{vendor}\n")
        put(root, f"sys/bus/pci/devices/{number}/class", f"{kind}\n")

    assert Machine(driver=None, gpus=(), unused=2) == look(root)


def test_a_driver_without_a_device_is_a_driver(root: Path) -> None:
    put(root, "sys/module/nvidia/version", "535.104.05\n")

    assert ("535.104.05", []) == shown(look(root))


def test_in_wsl_2_the_driver_is_that_of_windows(root: Path) -> None:
    put(root, "dev/dxg", "")
    smi(root, 'echo "531.14, NVIDIA GeForce RTX 3090, 8.6"')

    assert look(root).platform == "windows"


def test_a_machine_without_any_of_it_has_nothing(root: Path) -> None:
    assert Machine(driver=None, gpus=()) == look(root)
