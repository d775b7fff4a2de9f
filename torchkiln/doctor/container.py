"""Whether this is a container, of which kind, and how such a one is started anew."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.cgroup import read

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_WITH_GPU: Final = {
    "docker": "docker run --gpus all IMAGE",
    "podman": "podman run --device nvidia.com/gpu=all IMAGE",
    "apptainer": "apptainer exec --nv IMAGE nvidia-smi",
    "charliecloud": "ch-fromhost --nvidia IMAGE",
    "enroot": "enroot start --env NVIDIA_VISIBLE_DEVICES=all CONTAINER nvidia-smi",
    "kubernetes": "kubectl patch deployment NAME"
    """ -p '{"spec":{"template":{"spec":{"runtimeClassName":"nvidia"}}}}'""",
    "lxc": "lxc config device add CONTAINER gpu gpu",
    "incus": "incus config device add CONTAINER gpu gpu",
    "systemd-nspawn": "systemd-nspawn --machine=CONTAINER --bind=/dev/nvidiactl"
    " --bind=/dev/nvidia-uvm --bind=/dev/nvidia0 nvidia-smi",
}
_AGAIN: Final = {
    "docker": "docker restart CONTAINER",
    "podman": "podman restart CONTAINER",
    "apptainer": "apptainer exec --nv IMAGE nvidia-smi",
    "charliecloud": "ch-fromhost --nvidia IMAGE",
    "enroot": "enroot start CONTAINER nvidia-smi",
    "kubernetes": "kubectl delete pod POD",
    "lxc": "lxc restart CONTAINER",
    "incus": "incus restart CONTAINER",
    "systemd-nspawn": "machinectl reboot CONTAINER",
}
_VARIABLES: Final = {
    "APPTAINER_CONTAINER": "apptainer",
    "SINGULARITY_CONTAINER": "apptainer",
    "CH_RUNNING": "charliecloud",
    "KUBERNETES_SERVICE_HOST": "kubernetes",
}
# By what each leaves in its root; enroot locks it (its src/runtime.sh).
_FILES: Final = {
    "run/.containerenv": "podman",
    ".dockerenv": "docker",
    ".lock": "enroot",
    "dev/incus": "incus",
}


def container_of(root: Path, environ: Mapping[str, str]) -> str:
    """Return `docker`, `podman`, `apptainer`, `kubernetes` ..., or "" outside of any."""
    # Of systemd's words for it (systemd.io/CONTAINER_INTERFACE) `wsl` is one too, which is none.
    said = read(root / "run/systemd/container").strip() or environ.get("container", "")
    found = [
        *(kind for name, kind in _VARIABLES.items() if name in environ),
        *(kind for name, kind in _FILES.items() if (root / name).exists()),
        said if said in _AGAIN else "",
    ]
    return found[0]


def start_with_gpu(container: str) -> str:
    """Return the command that starts the container anew with the GPUs of its host."""
    return _WITH_GPU[container]


def start_again(container: str) -> str:
    """Return the command that starts the container anew, as it was."""
    return _AGAIN[container]


def as_root(command: str) -> str:
    """Return `command` with sudo for who is not root; few containers have a sudo."""
    return command if os.geteuid() == 0 else f"sudo {command}"
