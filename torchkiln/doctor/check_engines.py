"""What containers are made and run with: engines, NVIDIA's CDI, user namespaces."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln import host
from torchkiln.doctor.cgroup import read
from torchkiln.doctor.checks import check, ok, skipped, warning
from torchkiln.doctor.container import as_root

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

_SOCKET: Final = "var/run/docker.sock"
_PATIENCE: Final = 10.0
"""Seconds."""

_CDI: Final = ("etc/cdi", "var/run/cdi")
_HOST_PATH: Final = re.compile(r"""["']?hostPath["']?:\s*["']?(/[^"',\s]+)""")


@check("docker", area="container", rank=79)
def docker(facts: Facts) -> Outcome:
    """Connect to the Docker daemon, where there is one."""
    where = facts.subject.environ.get("DOCKER_HOST", "")
    path = facts.subject.root / (where.removeprefix("unix://").lstrip("/") or _SOCKET)
    if (where and not where.startswith("unix://")) or not path.is_socket():
        return skipped("there is no Docker daemon on this machine")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(str(path))
    except PermissionError:
        if "SLURM_JOB_ID" in facts.subject.environ:
            return skipped("the Docker daemon of this node is not for jobs")
        return warning(
            "the Docker daemon's socket: Permission denied",
            cause="the account is not in the group docker; a new login is needed after",
            remedy=as_root('usermod -aG docker "$(id -un)"'),
            link="docker/compose#1214",
        )
    except OSError as error:
        return skipped(f"the Docker daemon does not answer: {error.strerror or error}")
    return ok("the Docker daemon answers")


@check("podman", area="container", rank=79)
def podman(facts: Facts) -> Outcome:
    """Look for Podman, which has no daemon that could be asked."""
    found = shutil.which("podman", path=facts.subject.environ.get("PATH", ""))
    return ok("podman is here") if found else skipped("there is no podman")


@check("cdi", area="container", rank=77)
def cdi(facts: Facts) -> Outcome:
    """Look whether the files that NVIDIA's CDI specification names are still there."""
    root = facts.subject.root
    found = [path for folder in _CDI for path in sorted((root / folder).glob("*.[jy]*"))]
    specs = {path: text for path in found if "nvidia.com/gpu" in (text := read(path))}
    if not specs or facts.container:
        return skipped("there is no CDI specification of GPUs")
    for path, text in specs.items():
        missing = [one for one in _HOST_PATH.findall(text) if not (root / one[1:]).exists()]
        if missing:
            spec = f"/{path.relative_to(root)}"
            return warning(
                f"{spec} names {missing[0]}, which is not there",
                cause="the driver was updated since: containers with a GPU do not start",
                remedy=as_root(f"nvidia-ctk cdi generate --output={spec}"),
                link="NVIDIA/nvidia-container-toolkit#82",
            )
    return ok("the files of the CDI specification are there")


@check("user-namespaces", area="container", rank=79)
def user_namespaces(facts: Facts) -> Outcome:
    """Try what builds and rootless containers are made of, and tell it: torch needs none of it."""
    root = facts.subject.root
    probe = host.PYTHON_PROBE if root == Path("/") else ("false",)
    faults = list(host.namespace_faults(host.Machine(root=root), probe))
    if not faults or (root != Path("/") and not faults[0].why):
        return ok("user namespaces may be made")
    return skipped(f"{faults[0].why}; {faults[0].hint}")
