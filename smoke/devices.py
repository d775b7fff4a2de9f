"""Whether this host has an NVIDIA GPU, and whether a torch build has code for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ARCH: Final = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)(?P<only>[af]?)")
HIDDEN: Final = frozenset({"", "-1", "NoDevFiles"})
"""Values of CUDA_VISIBLE_DEVICES that name no device; Slurm sets the last for a job without one."""


def device_signs(root: Path) -> list[str]:
    """Return what under `root` shows a GPU: device nodes, and the driver's list of its GPUs.

    The driver's list is there in a container that was started without the devices, too: such a host
    has a GPU, and a suite that skipped would hide that it does not reach the image.
    """
    nodes = [path for path in (root / "dev").glob("nvidia*") if path.name[6:].isdigit()]
    listed = (root / "proc/driver/nvidia/gpus").glob("*")
    return sorted(f"/{path.relative_to(root)}" for path in (*nodes, *listed))


def devices_hidden(environment: Mapping[str, str]) -> bool:
    """Return whether the user asked CUDA not to see any device."""
    return environment.get("CUDA_VISIBLE_DEVICES") in HIDDEN


def arch_runs(arch: str, capability: tuple[int, int]) -> bool:
    """Return whether code built for `arch` (`sm_86`, `compute_90`) runs on a GPU of `capability`.

    Binary code runs on its major version from its minor version on, so `sm_86` on 8.9; PTX
    (`compute_`) on everything from its version on (CUDA C++ Programming Guide, "Binary
    Compatibility" and "PTX Compatibility"). With suffix `a` it runs on that one version only, with
    `f` on the family, which is taken as the major version.
    """
    match = ARCH.fullmatch(arch)
    if match is None:
        return False
    built = (int(match["major"]), int(match["minor"]))
    if match["only"] == "a":
        return built == capability
    same_major = built[0] == capability[0]
    return built <= capability and (
        same_major or (match["kind"] == "compute" and not match["only"])
    )


def supported(archs: Iterable[str], capability: tuple[int, int]) -> bool:
    """Return whether any of the build's `archs` runs on a GPU of `capability`."""
    return any(arch_runs(arch, capability) for arch in archs)
