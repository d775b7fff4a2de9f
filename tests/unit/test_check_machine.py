"""What the entry point of an image says of the machine, on file systems made for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from torchkiln.contents import ROOTFS
from torchkiln.gpus import without_code

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = ROOTFS / "opt/torchkiln/bin/check-machine"
VERSIONS = {
    "closed": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Aug 16 01:32:10 UTC 2023\n",
    "open": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (me@x)\n",
}
REQUIRE = {"11.7": "450.80.02", "12.1": "525.60.13", "12.8": "525.60.13", "13.0": "580"}
TORCH = {"11.7": "2.0.1", "12.1": "2.4.1", "12.8": "2.10.0", "13.0": "2.14.1"}


@dataclass(frozen=True)
class Root:
    """A root of a container with a driver and GPUs as the kernel module lists them."""

    path: Path

    def driver(self, version: str, *models: str, kind: str = "closed") -> None:
        """Load a driver that has these GPUs."""
        folder = self.path / "proc/driver/nvidia"
        (folder / "gpus").mkdir(parents=True)
        (folder / "version").write_text(VERSIONS[kind].format(version) + "GCC version:  gcc 12\n")
        for number, model in enumerate(models):
            (folder / f"gpus/0000:{number:02}:00.0").mkdir()
            text = f"Model: \t\t {model}\nIRQ:   \t\t 45\n"
            (folder / f"gpus/0000:{number:02}:00.0/information").write_text(text)

    def libcuda(self) -> None:
        """Mount the driver's library as a container runtime does."""
        folder = self.path / "usr/local/nvidia/lib64"
        folder.mkdir(parents=True)
        (folder / "libcuda.so.1").touch()

    def says(self, cuda: str = "", **environment: str) -> list[str]:
        """Return what the program prints for an image of this CUDA, "" for the CPU."""
        if cuda:
            patterns = "".join(f"{one}\n" for one in without_code(TORCH[cuda], cuda))
            (self.path / "opt/torchkiln").mkdir(parents=True)
            (self.path / "opt/torchkiln/gpus-without-code").write_text(patterns)
            environment |= {
                "NVIDIA_REQUIRE_CUDA": f"cuda>={cuda} driver>={REQUIRE[cuda]}",
                "LD_LIBRARY_PATH": "/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
            }
        done = subprocess.run(
            [shutil.which("dash") or "/bin/sh", PROGRAM, self.path],
            env={"PATH": os.defpath, "HOME": "/tmp"} | environment,  # noqa: S108
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "tmp").mkdir()
    return Root(tmp_path)


def test_a_machine_that_can_run_it_hears_nothing(root: Root) -> None:
    root.driver("535.104.05", "NVIDIA A100-SXM4-40GB", "Tesla V100-SXM2-16GB")
    root.libcuda()

    assert root.says("12.1") == []


@pytest.mark.parametrize("kind", sorted(VERSIONS))
@pytest.mark.parametrize(
    ("version", "cuda", "words"),
    [
        ("450.80.02", "11.7", ""),
        ("450.66", "11.7", "too old"),
        ("525.60.13", "12.1", ""),
        ("525.60.11", "12.1", "too old"),
        ("470.256.02", "12.1", "too old"),
        ("580.65.06", "13.0", ""),
        ("575.57.08", "13.0", "too old"),
    ],
)
def test_a_driver_below_the_floor_is_told_in_two_lines(
    root: Root, version: str, cuda: str, words: str, kind: str
) -> None:
    root.driver(version, "NVIDIA A100-SXM4-40GB", kind=kind)
    root.libcuda()
    lines = root.says(cuda)

    assert len(lines) == (2 if words else 0)
    assert all(f"driver {version} is {words}" in line for line in lines[:1])


@pytest.mark.parametrize(
    ("cuda", "model", "count"),
    [
        ("11.7", "NVIDIA H100 80GB HBM3", 2),
        ("11.7", "NVIDIA L40S", 0),
        ("11.7", "NVIDIA GeForce RTX 5090", 2),
        ("12.1", "NVIDIA H100 80GB HBM3", 0),
        ("12.1", "Tesla K80", 2),
        ("12.8", "NVIDIA GeForce GTX 1080 Ti", 2),
        ("12.8", "Tesla V100-PCIE-32GB", 0),
        ("12.8", "NVIDIA B200", 0),
        ("13.0", "Tesla V100-PCIE-32GB", 2),
        ("13.0", "Tesla T4", 0),
        ("13.0", "Quadro RTX 6000", 0),
        ("13.0", "NVIDIA RTX 6000 Ada Generation", 0),
        ("13.0", "A GPU of next year", 0),
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_told(
    root: Root, cuda: str, model: str, count: int
) -> None:
    root.driver("580.65.06", model)
    root.libcuda()
    lines = root.says(cuda)

    assert len(lines) == count
    assert all(f"has no code for the GPU {model}" in line for line in lines[:1])


def test_a_container_without_the_drivers_library_hears_how_to_be_given_it(root: Root) -> None:
    root.driver("535.104.05", "Tesla T4")
    lines = root.says("12.1")

    assert "libcuda.so.1 is not in this container" in lines[0]
    assert "--gpus all" in lines[1]
    assert len(lines) == 2


def test_a_cpu_image_says_nothing_of_gpus(root: Root) -> None:
    root.driver("418.226", "Tesla K80")

    assert root.says() == []


def test_who_asked_for_no_gpu_hears_nothing_of_it(root: Root) -> None:
    root.driver("418.226", "Tesla K80")

    assert root.says("13.0", NVIDIA_VISIBLE_DEVICES="void") == []


@pytest.mark.parametrize("home", ["/home/nobody", "/root"])
def test_a_user_without_a_home_hears_it(root: Root, home: str) -> None:
    lines = root.says(HOME=home)

    assert f"has no home to write to: HOME is '{home}'" in lines[0]
    assert len(lines) == 2
