from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from torchkiln.gpu import _linker_cache, device_nodes, gpu_mounts
from torchkiln.sandbox import Mount

CACHE = """\
7 libs found in cache `/etc/ld.so.cache'
\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1
\tlibcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1
\tlibcuda.so (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so
\tlibnvidia-ml.so.1 (libc6,x86-64, OS ABI: Linux 2.3.99) => /usr/lib/nvidia/libnvidia-ml.so.1
\tlibcudart.so.12 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.12
\tlibnvidia-glcore.so.550 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libnvidia-glcore.so.550
\tlibc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6
"""
LIB = "/usr/local/nvidia/lib64"
HERE = Path("/usr/lib/x86_64-linux-gnu")


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """Give a /dev with two GPUs."""
    for name in (
        "nvidia1",
        "nvidia0",
        "nvidiactl",
        "nvidia-uvm",
        "nvidia-uvm-tools",
        "null",
        "sda",
    ):
        (tmp_path / name).touch()
    return tmp_path


def test_nodes_are_those_of_the_driver(dev: Path) -> None:
    expected = ["nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1", "nvidiactl"]

    assert expected == [path.name for path in device_nodes(dev)]


def test_devices_are_mounted_as_devices_at_their_names(dev: Path) -> None:
    mounts = [mount for mount in gpu_mounts(dev, "") if mount.device]

    assert [(dev / "nvidia0", "/dev/nvidia0")] == [
        (mount.source, mount.target) for mount in mounts if mount.source.name == "nvidia0"
    ]
    assert 5 == len(mounts)


def test_libraries_are_the_drivers_for_this_processor_and_no_others(dev: Path) -> None:
    """Not the toolkit's: the image has its own. Not i386's, nor OpenGL's."""
    found = [mount for mount in gpu_mounts(dev, CACHE) if not mount.device]

    assert [
        Mount(source=HERE / "libcuda.so", target=f"{LIB}/libcuda.so"),
        Mount(source=HERE / "libcuda.so.1", target=f"{LIB}/libcuda.so.1"),
        Mount(source=Path("/usr/lib/nvidia/libnvidia-ml.so.1"), target=f"{LIB}/libnvidia-ml.so.1"),
    ] == found


def test_host_without_gpus_gives_nothing_whatever_it_has_installed(tmp_path: Path) -> None:
    assert () == gpu_mounts(tmp_path, CACHE, [])


@pytest.mark.skipif(not shutil.which("ldconfig", path="/usr/sbin:/sbin"), reason="no `ldconfig`")
def test_linker_cache_is_read_also_where_path_is_an_ordinary_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    assert "libc.so.6 (libc6" in _linker_cache()


def test_host_without_ldconfig_gives_the_devices(
    dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)

    assert 5 == len(gpu_mounts(dev))
