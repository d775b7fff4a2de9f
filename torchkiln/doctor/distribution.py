"""The Linux distribution, and how packages of the NVIDIA driver are installed on it.

Names of packages: Ubuntu's and Debian's archives; for the others NVIDIA, "Driver Installation
Guide", which uses NVIDIA's own repositories.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.container import as_root

if TYPE_CHECKING:
    from pathlib import Path

_INSTALL: Final = {
    "ubuntu": "apt-get install -y",
    "debian": "apt-get install -y",
    "fedora": "dnf install -y",
    "suse": "zypper install -y",
    "arch": "pacman -S --noconfirm",
}
_DRIVER: Final = {
    "ubuntu": "nvidia-driver-580-server",
    "debian": "nvidia-driver",
    "fedora": "nvidia-open",
    "suse": "nvidia-open",
    "arch": "nvidia-open",
}
_LIBCUDA: Final = {
    "ubuntu": "libnvidia-compute-{branch}",
    "debian": "libcuda1",
    "fedora": "nvidia-driver-cuda-libs",
    "suse": "nvidia-compute-G06",
    "arch": "nvidia-utils",
}
_FABRIC: Final = {
    "ubuntu": "nvidia-fabricmanager-{branch}",
    "debian": "nvidia-fabricmanager-{branch}",
    "fedora": "nvidia-fabric-manager",
    "suse": "nvidia-fabricmanager",
    "arch": "nvidia-fabricmanager",
}
_COMPILER: Final = {
    "ubuntu": "g++ python3-dev",
    "debian": "g++ python3-dev",
    "fedora": "gcc-c++ python3-devel",
    "suse": "gcc-c++ python3-devel",
    "arch": "gcc python",
}


def os_release(root: Path) -> dict[str, str]:
    """Return the fields of os-release(5); empty where there is none."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = (root / name).read_text(encoding="utf-8")
        except OSError:
            continue
        return dict(re.findall(r"""^(\w+)=["']?(.*?)["']?$""", text, re.MULTILINE))
    return {}


def family(root: Path) -> str:
    """Return which of the families that are known here it is of; `ubuntu` where of none."""
    fields = os_release(root)
    words = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace("-", " ").split()
    kin = {"rhel": "fedora", "centos": "fedora", "sles": "suse", "opensuse": "suse"}
    return next(
        (kin.get(word, word) for word in words if kin.get(word, word) in _INSTALL), "ubuntu"
    )


def install_driver(root: Path) -> str:
    """Return the command that installs NVIDIA's driver."""
    return _install(root, _DRIVER, 0)


def install_libcuda(root: Path, branch: int) -> str:
    """Return the command that installs the libcuda of the driver's `branch`."""
    return _install(root, _LIBCUDA, branch)


def install_fabric_manager(root: Path, branch: int) -> str:
    """Return the command that installs the fabric manager of the driver's `branch`."""
    return _install(root, _FABRIC, branch)


def install_modprobe(root: Path) -> str:
    """Return the command that installs the program which makes device nodes."""
    return _install(root, dict.fromkeys(_INSTALL, "nvidia-modprobe"), 0)


def install_compiler(root: Path) -> str:
    """Return the command that installs a C++ compiler and Python's headers."""
    return _install(root, _COMPILER, 0)


def _install(root: Path, names: dict[str, str], branch: int) -> str:
    kind = family(root)
    return as_root(f"{_INSTALL[kind]} {names[kind].format(branch=branch)}")
