"""The switches between the GPUs of large machines: without their manager CUDA starts nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torchkiln.doctor import builds
from torchkiln.doctor.checks import check, ok, problem, skipped
from torchkiln.doctor.container import as_root
from torchkiln.doctor.distribution import install_fabric_manager
from torchkiln.doctor.nvidia import cuda_error

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

_NOT_READY: Final = 802
"""CUDA_ERROR_SYSTEM_NOT_READY."""

_PROCESS: Final = "nv-fabricmanage"
"""The kernel keeps 15 letters of a process's name (proc(5), `comm`)."""


@check("fabric-manager", area="machine", rank=12)
def fabric_manager(facts: Facts) -> Outcome:
    """Look for the fabric manager where there are NVSwitches, or CUDA starts with error 802."""
    root = facts.subject.root
    not_ready = cuda_error(facts) == _NOT_READY
    if not not_ready and not _switches(root):
        return skipped("there are no NVSwitches")
    if not not_ready and (_runs(root) or builds.works(facts)):
        return ok("NVSwitches, and the fabric manager runs")
    if not not_ready and facts.container:
        return skipped("NVSwitches; whether their manager runs is not seen from a container")
    return problem(
        f"CUDA starts with error {_NOT_READY}" if not_ready else "NVSwitches, and no manager runs",
        cause="the fabric manager must run, of the driver's very version, before CUDA starts",
        remedy=_start(facts),
        link="pytorch/pytorch#35710",
    )


def _switches(root: Path) -> bool:
    return any(root.glob("dev/nvidia-nvswitch[0-9]*"))


def _runs(root: Path) -> bool:
    return any(_name(path) == _PROCESS for path in root.glob("proc/[0-9]*/comm"))


def _name(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # a process that has ended meanwhile
        return ""


def _start(facts: Facts) -> str:
    """Return the command for the host; one that runs with an old version is started again."""
    root, driver = facts.subject.root, facts.machine.driver
    if not facts.container and not (root / "usr/bin/nv-fabricmanager").exists() and driver:
        start = as_root("systemctl enable --now nvidia-fabricmanager")
        return f"{install_fabric_manager(root, driver.branch)} && {start}"
    return as_root("systemctl restart nvidia-fabricmanager")
