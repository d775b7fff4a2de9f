"""Whether this is a container, of which kind, and how such a one is started anew."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_WITH_GPU: Final = {
    "docker": "docker run --gpus all IMAGE",
    "podman": "podman run --device nvidia.com/gpu=all IMAGE",
    "apptainer": "apptainer exec --nv IMAGE nvidia-smi",
    "charliecloud": "ch-fromhost --nvidia IMAGE",
    "kubernetes": "kubectl patch deployment NAME"
    """ -p '{"spec":{"template":{"spec":{"runtimeClassName":"nvidia"}}}}'""",
}
_AGAIN: Final = {
    "docker": "docker restart CONTAINER",
    "podman": "podman restart CONTAINER",
    "apptainer": "apptainer exec --nv IMAGE nvidia-smi",
    "kubernetes": "kubectl delete pod POD",
    "charliecloud": "ch-fromhost --nvidia IMAGE",
}


def container_of(root: Path, environ: Mapping[str, str]) -> str:
    """Return `docker`, `podman`, `apptainer`, `kubernetes` ..., or "" outside of any."""
    if "APPTAINER_CONTAINER" in environ or "SINGULARITY_CONTAINER" in environ:
        return "apptainer"
    if "CH_RUNNING" in environ:
        return "charliecloud"
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "kubernetes"
    if (root / "run/.containerenv").exists():
        return "podman"
    return "docker" if (root / ".dockerenv").exists() else ""


def start_with_gpu(container: str) -> str:
    """Return the command that starts the container anew with the GPUs of its host."""
    return _WITH_GPU[container]


def start_again(container: str) -> str:
    """Return the command that starts the container anew, as it was."""
    return _AGAIN[container]


def as_root(command: str) -> str:
    """Return `command` with sudo for who is not root; few containers have a sudo."""
    return command if os.geteuid() == 0 else f"sudo {command}"
