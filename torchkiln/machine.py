"""A machine's NVIDIA driver and GPUs: this one's as it shows them, or one that is described.

In this order, each where the one before told nothing: the kernel module for the driver; NVML,
nvidia-smi and the kernel module for the GPUs. torch is not asked: it is what is to be installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.drivers import Driver, Platform, parse_driver
from torchkiln.errors import MachineError, did_you_mean
from torchkiln.gpus import MODELS, Capability, capability_of, model_of, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PATIENCE: Final = 30.0
"""Seconds. Without persistence mode the driver wakes each GPU first, which takes seconds."""

_NVML: Final = (sys.executable, "-m", "torchkiln.nvml")
_SMI: Final = ("nvidia-smi", "--query-gpu=driver_version,name,compute_cap", "--format=csv,noheader")
_SMI_OLD: Final = ("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader")
"""nvidia-smi before driver 510 knows no `compute_cap`."""

_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"  # the PCI class of display controllers


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU by its driver's name; `capability` is None where nothing tells it."""

    name: str
    capability: Capability | None

    def __str__(self) -> str:
        """Return `Tesla T4 (7.5)`."""
        return f"{self.name} ({shown(self.capability)})" if self.capability else self.name


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`unused` counts NVIDIA's devices on the PCI bus where no driver has them."""

    driver: Driver | None
    gpus: tuple[Gpu, ...]
    platform: Platform = "linux"
    unused: int = 0


def this_machine(environ: Mapping[str, str], root: Path = Path("/")) -> Machine:
    """Return the driver and GPUs that the machine with the file system `root` shows."""
    answer = _nvml(environ) or _smi(environ)
    module = module_version(root)
    driver = parse_driver(module or (answer[0] if answer else ""))
    gpus = answer[1] if answer and answer[1] else _listed(root)
    return Machine(
        driver=driver,
        gpus=gpus,
        platform="windows" if (root / "dev/dxg").exists() else "linux",
        unused=0 if driver else _pci_devices(root),
    )


def described(driver: str, gpus: Sequence[str], platform: str = "linux") -> Machine:
    """Return the machine that `--driver` and `--gpu` describe; raise `MachineError` at a fault.

    A GPU is a name or a compute capability: `a100`, `8.0`.
    """
    version = parse_driver(driver)
    faults = [] if version else [f"not a driver's version like 535.104.05: `{driver}`"]
    found = [_described_gpu(text) for text in gpus]
    faults += [one for one in found if isinstance(one, str)]
    if not gpus:
        faults.append("no GPU is named")
    if platform not in {"linux", "windows"}:
        faults.append(f"not linux or windows: {platform}")
    if faults:
        what = "there is no such machine"
        raise MachineError(what, "\n".join(faults), "./kiln recommend --driver 535 --gpu a100")
    known = tuple(one for one in found if isinstance(one, Gpu))
    named: Platform = "windows" if platform == "windows" else "linux"
    return Machine(driver=version, gpus=known, platform=named)


def _described_gpu(text: str) -> Gpu | str:
    """Return the GPU, or why there is none."""
    if match := re.fullmatch(r"(\d{1,2})\.(\d)", text):
        capability = (int(match[1]), int(match[2]))
        return Gpu(name="a GPU", capability=capability)
    model = model_of(text)
    if model is None:
        nearest = did_you_mean(text.lower(), [one.label.lower() for one in MODELS])
        return f"not a GPU that is known: {text}{nearest} or give its compute capability, like 8.6"
    # A family's label says less than what was typed: `rtx4090` is of `RTX 40`.
    return Gpu(name=text.upper(), capability=model.capability)


def module_version(root: Path) -> str:
    """Return the version of the loaded kernel module, "" where none is."""
    for path, pattern in (
        ("sys/module/nvidia/version", r"^(\d[\d.]+)"),
        ("proc/driver/nvidia/version", r"Kernel Module.*?\s(\d{3}[\d.]+)\s"),
    ):
        try:
            match = re.search(pattern, (root / path).read_text(encoding="utf-8"))
        except OSError:
            continue
        if match:
            return match[1]
    return ""


def _nvml(environ: Mapping[str, str]) -> tuple[str, tuple[Gpu, ...]] | None:
    output = _output(_NVML, environ)
    if not output:
        return None
    found = json.loads(output)
    gpus = tuple(Gpu(name=name, capability=(cc[0], cc[1])) for name, cc in found["gpus"])
    return found["driver"], gpus


def _smi(environ: Mapping[str, str]) -> tuple[str, tuple[Gpu, ...]] | None:
    for command in (_SMI, _SMI_OLD):
        rows = [line.split(", ") for line in _output(command, environ).splitlines()]
        gpus = tuple(Gpu(name=row[1], capability=_capability(row)) for row in rows if row[1:])
        if gpus:
            return rows[0][0], gpus
    return None


def _capability(row: Sequence[str]) -> Capability | None:
    """Return the capability in a row of nvidia-smi, or that of the model that it names."""
    match = re.fullmatch(r"(\d+)\.(\d)", row[2]) if row[2:] else None
    return (int(match[1]), int(match[2])) if match else capability_of(row[1])


def _output(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return what `command` prints, "" where it is absent, fails or hangs."""
    try:
        done = subprocess.run(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _listed(root: Path) -> tuple[Gpu, ...]:
    """Return the GPUs that the kernel module lists; it tells names alone."""
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    ]
    models = (re.search(r"^Model:\s+(.+?)\s*$", text, re.MULTILINE) for text in texts)
    names = [match[1] for match in models if match]
    return tuple(Gpu(name=name, capability=capability_of(name)) for name in names)


def _pci_devices(root: Path) -> int:
    """Return how many of NVIDIA's display controllers are on the bus."""
    devices = (root / "sys/bus/pci/devices").glob("*")
    return sum(
        _first_line(device / "vendor") == _NVIDIA
        and _first_line(device / "class").startswith(_DISPLAY)
        for device in devices
    )


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
