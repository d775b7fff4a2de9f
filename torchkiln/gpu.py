"""The host's NVIDIA GPUs, as mounts for the sandbox: device nodes and the driver's libraries.

From the host's CDI specification if it has one; else as Apptainer's --nv does it: nodes from /dev,
libraries of the driver from the linker's cache. Libraries lie in one folder of the image, which
ldconfig and the image's library path know.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln import cdi
from torchkiln.sandbox import Mount

if TYPE_CHECKING:
    from collections.abc import Sequence

_NODES: Final = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_TARGET: Final = "/usr/local/nvidia/lib64"
# What the driver brings for compute, of Apptainer's nvliblist.conf.
_LIBRARY: Final = re.compile(
    r"^\s*(lib(?:cuda|cudadebugger|nvidia-ml|nvidia-nvvm|nvidia-ptxjitcompiler|nvidia-opencl)"
    r"\.so[.0-9]*) \(libc6,x86-64.* => (\S+)$",
    re.MULTILINE,
)


def device_nodes(dev: Path = Path("/dev")) -> list[Path]:
    """Return the GPUs' device nodes, sorted; none where the host has no driver loaded."""
    return sorted(path for pattern in _NODES for path in dev.glob(pattern))


def gpu_mounts(
    dev: Path = Path("/dev"),
    linker_cache: str | None = None,
    specs: Sequence[Path] = cdi.FOLDERS,
) -> tuple[Mount, ...]:
    """Return what a sandbox needs to see the GPUs; empty where there are none."""
    if (spec := cdi.read_spec(specs)) is not None:
        return _of_spec(spec)
    nodes = device_nodes(dev)
    if not nodes:
        return ()
    text = _linker_cache() if linker_cache is None else linker_cache
    libraries = [
        Mount(source=Path(source), target=f"{_TARGET}/{name}")
        for name, source in sorted(_LIBRARY.findall(text))
    ]
    devices = [Mount(source=node, target=f"/dev/{node.name}", device=True) for node in nodes]
    return (*devices, *libraries)


def _of_spec(spec: cdi.GpuSpec) -> tuple[Mount, ...]:
    """Return the mounts of a CDI specification."""
    devices = [Mount(source=host, target=target, device=True) for host, target in spec.nodes]
    libraries = [
        Mount(source=library, target=f"{_TARGET}/{name}")
        for library in spec.libraries
        for name in cdi.names_of(library)
    ]
    return (*devices, *libraries)


def _linker_cache() -> str:
    # Debian keeps the folder of ldconfig off the PATH of ordinary users.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    program = shutil.which("ldconfig", path=path)
    if program is None:  # musl has none; the driver does not run there either
        return ""
    return subprocess.run([program, "-p"], capture_output=True, text=True, check=False).stdout
