"""The GPUs' device nodes and libcuda: what a process, and above all a container, needs of them."""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from ctypes import CDLL
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.doctor import builds
from torchkiln.doctor.cgroup import read
from torchkiln.doctor.checks import check, ok, problem, skipped
from torchkiln.doctor.container import as_root, start_again, start_with_gpu
from torchkiln.doctor.distribution import install_libcuda, install_modprobe
from torchkiln.doctor.libraries import find_library
from torchkiln.doctor.nvidia import cuda_error, gpu_nodes, in_job, listed_gpus, open_faults
from torchkiln.machine import module_version

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

_UNKNOWN: Final = 999
"""CUDA_ERROR_UNKNOWN."""

_GROUP: Final = stat.S_IRGRP | stat.S_IWGRP

# Where runtimes put the driver's libraries, and the loader does not look unless it is told to.
_ELSEWHERE: Final = (
    *("usr/local/nvidia/lib64", ".singularity.d/libs", "usr/lib/wsl/lib"),
    *("run/opengl-driver/lib", "usr/lib/nvidia", "usr/lib64/nvidia"),
)


@check("gpu-devices-denied", area="machine", rank=14)
def devices_denied(facts: Facts) -> Outcome:
    """Open the device nodes, as CUDA does first of all."""
    root = facts.subject.root
    nodes = [node for node in gpu_nodes(root) if node.name != "dxg"]
    if not nodes:
        return skipped("there are no device nodes of GPUs")
    control = open_faults([root / "dev/nvidiactl", root / "dev/nvidia-uvm"])
    gpus = open_faults(nodes)
    # A job is given some of a node's GPUs, and may open no others.
    denied = control or (gpus if len(gpus) == len(nodes) else {})
    if not denied:
        return ok(f"{len(nodes)} device nodes of GPUs, of which {len(nodes) - len(gpus)} open")
    if not control and in_job(facts) and not builds.wants_gpu(facts):
        return skipped("the job was given no GPU, and there is no torch that needs one")
    return _denied(facts, *next(iter(denied.items())))


def _denied(facts: Facts, node: Path, fault: int) -> Outcome:
    evidence = f"/dev/{node.name}: {os.strerror(fault)}"
    if in_job(facts) and node.name[-1].isdigit():
        cause, remedy = "the job was given no GPU", "srun --gres=gpu:1 --pty bash"
        link = ""
    elif fault == errno.EPERM and facts.container:
        cause = "the container has lost the right to its devices, as `systemctl daemon-reload` does"
        remedy, link = start_again(facts.container), "NVIDIA/nvidia-container-toolkit#251"
    elif fault in {errno.EACCES, errno.EPERM}:
        cause = "the device node is not for this account"
        remedy, link = _admit(facts, node), "NVIDIA/nvidia-docker#1608"
    else:
        cause = "the driver cannot reach the GPU; it may have fallen off the bus (Xid 79)"
        remedy, link = as_root("reboot"), "NVIDIA/open-gpu-kernel-modules#507"
    return problem(evidence, cause=cause, remedy=remedy, link=link)


def _admit(facts: Facts, node: Path) -> str:
    """Return the command that lets this account open `node`, by its group where it has one."""
    found = node.stat()
    text = read(facts.subject.root / "etc/group")
    group = re.search(rf"^([^:]+):[^:]*:{found.st_gid}:", text, re.MULTILINE)
    if found.st_gid and found.st_mode & _GROUP == _GROUP and group:
        return as_root(f'usermod -aG {shlex.quote(group[1])} "$(id -un)"')
    return as_root("chmod a+rw /dev/nvidia*")


@check("libcuda-missing", area="machine", rank=16)
def libcuda_missing(facts: Facts) -> Outcome:
    """Look for libcuda.so.1, which is the driver's and in no image."""
    subject = facts.subject
    nodes = gpu_nodes(subject.root)
    if not nodes:
        return skipped("there are no device nodes of GPUs")
    if find_library("libcuda.so.1", subject.root, subject.environ) or _loads(facts):
        return ok("libcuda.so.1 is found")
    return problem(
        f"/dev/{nodes[0].name} is here, and no libcuda.so.1 that the loader finds",
        cause="torch sees no GPU without it; it comes with the driver, from outside a container",
        remedy=_bring_libcuda(facts),
        link="NVIDIA/nvidia-docker#76",
    )


def _loads(facts: Facts) -> bool:
    """Ask the loader itself, which may be told more than is known here."""
    try:
        return facts.subject.root == Path("/") and bool(CDLL("libcuda.so.1"))
    except OSError:
        return False


def _bring_libcuda(facts: Facts) -> str:
    root, environ = facts.subject.root, facts.subject.environ
    for folder in _ELSEWHERE:
        if (root / folder / "libcuda.so.1").exists():
            return f'export LD_LIBRARY_PATH="/{folder}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"'
    if (root / "dev/dxg").exists():
        return "wsl.exe --update"
    wanted = environ.get("NVIDIA_DRIVER_CAPABILITIES") or "utility,compute"
    if facts.container == "docker" and not {"compute", "all"} & set(wanted.split(",")):
        return "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility IMAGE"
    if facts.container:
        return start_with_gpu(facts.container)
    return install_libcuda(root, facts.machine.driver.branch if facts.machine.driver else 580)


@check("gpu-devices-missing", area="machine", rank=17)
def devices_missing(facts: Facts) -> Outcome:
    """Look whether the GPUs that the kernel module drives have device nodes here."""
    root = facts.subject.root
    count = listed_gpus(root)
    if gpu_nodes(root):
        return ok(f"{count or 'the'} GPUs have device nodes")
    if not module_version(root) or not count:
        return skipped("the kernel drives no NVIDIA GPU")
    if facts.container and not builds.wants_gpu(facts):
        return ok("the container was given none of its host's GPUs, and torch here needs none")
    if facts.container:
        cause = "the container was started without its host's GPUs"
    elif _makes_nodes(root):
        return ok("nvidia-modprobe makes the device nodes when CUDA starts")
    else:
        cause = "nothing makes the device nodes: nvidia-modprobe is not there, or not setuid"
    return problem(
        f"the kernel drives {count} GPUs, and there is no /dev/nvidia0",
        cause=cause,
        remedy=_make_nodes(facts),
        link="NVIDIA/nvidia-docker#76",
    )


def _makes_nodes(root: Path) -> bool:
    """Tell whether CUDA can make device nodes, by the setuid program that comes for it."""
    helper = root / "usr/bin/nvidia-modprobe"
    return helper.exists() and bool(helper.stat().st_mode & stat.S_ISUID)


def _make_nodes(facts: Facts) -> str:
    if facts.container:
        return start_with_gpu(facts.container)
    make = as_root("nvidia-modprobe -c 0 -u")
    if (facts.subject.root / "usr/bin/nvidia-modprobe").exists():
        return make
    return f"{install_modprobe(facts.subject.root)} && {make}"


@check("nvidia-uvm", area="machine", rank=19)
def uvm(facts: Facts) -> Outcome:
    """Look for the device of unified memory, without which CUDA starts with error 999."""
    root = facts.subject.root
    if not list(root.glob("dev/nvidia[0-9]*")):
        return skipped("there are no device nodes of GPUs")
    present, wedged = (root / "dev/nvidia-uvm").exists(), cuda_error(facts) == _UNKNOWN
    if not wedged and (present or (not facts.container and _makes_nodes(root))):
        return ok("/dev/nvidia-uvm is here, or made when CUDA starts")
    again = f"{as_root('modprobe -r nvidia_uvm')} && {as_root('modprobe nvidia_uvm')}"
    return problem(
        f"CUDA starts with error {_UNKNOWN}" if wedged else "there is no /dev/nvidia-uvm",
        cause="the kernel module nvidia_uvm is not loaded, or has not outlived a suspend",
        remedy=again if present and not facts.container else _make_nodes(facts),
        link="pytorch/pytorch#49081",
    )
