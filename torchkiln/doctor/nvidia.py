"""What a machine shows of NVIDIA's driver: device nodes, libraries and what CUDA answers."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.libraries import find_library

if TYPE_CHECKING:
    from torchkiln.doctor.facts import Facts

_PATIENCE: Final = 20.0
"""Seconds. Without persistence mode the driver wakes each GPU first."""


def gpu_nodes(root: Path) -> list[Path]:
    """Return the device nodes of GPUs, /dev/nvidia0 and so on; in WSL 2 it is one, /dev/dxg."""
    return sorted([*root.glob("dev/nvidia[0-9]*"), *root.glob("dev/dxg")])


def listed_gpus(root: Path) -> int:
    """Return how many GPUs the kernel module drives, whether or not they have a node here."""
    return len(list(root.glob("proc/driver/nvidia/gpus/*")))


def in_job(facts: Facts) -> bool:
    """Tell whether this is a job of a cluster, which is given some of a node's GPUs, or none."""
    return "SLURM_JOB_ID" in facts.subject.environ


def open_faults(nodes: list[Path]) -> dict[Path, int]:
    """Return the error's number for each of `nodes` that is there and cannot be opened."""
    return {node: fault for node in nodes if node.exists() and (fault := _fault(node))}


def _fault(node: Path) -> int:
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or 0
    return 0


def ask_smi(facts: Facts, *arguments: str) -> str:
    """Return what nvidia-smi says on both streams, "" where there is none or it hangs."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments],
            env=dict(facts.subject.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def cuda_error(facts: Facts) -> int:
    """Return the number of the error that CUDA starts with (cuda.h, `CUresult`), 0 for none.

    torch has told it where it was asked; else it is asked here, which must be in a process of its
    own: cuInit may hang or crash.
    """
    if facts.torch and facts.torch.cuda:
        match = re.search(r"Error (\d{1,3}): ", facts.torch.error + facts.torch.output)
        return int(match[1]) if match else 0
    if facts.subject.root != Path("/"):
        return 0
    library = find_library("libcuda.so.1", facts.subject.root, facts.subject.environ)
    try:
        return int(ctypes.CDLL(str(library)).cuInit(0)) if library else 0
    except OSError:
        return 0
