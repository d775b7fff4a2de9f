"""NVIDIA devices that no driver of NVIDIA has, and why: nouveau, Secure Boot, a new kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torchkiln.doctor import builds
from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.container import as_root
from torchkiln.doctor.distribution import install_driver

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

# Where distributions keep the key that they sign modules with which are built on the machine.
_KEYS: Final = ("var/lib/shim-signed/mok/MOK.der", "etc/pki/akmods/certs/public_key.der")
_NOUVEAU_OFF: Final = "etc/modprobe.d/nouveau-off.conf"


@check("driver-not-loaded", area="machine", rank=13)
def driver_not_loaded(facts: Facts) -> Outcome:
    """Look for NVIDIA's devices on the bus that the driver has not taken."""
    unused, build = facts.machine.unused, builds.installed_build(facts)
    if not unused:
        return skipped("no NVIDIA device is without its driver")
    evidence = f"{unused} NVIDIA devices, and the driver is not loaded"
    if build and not build.cuda:
        return ok(f"{evidence}; torch here was built without CUDA")
    cause, remedy = _reason(facts.subject.root)
    say = problem if build else warning
    where = "; this is for the host of the container" if facts.container else ""
    return say(evidence, cause=cause + where, remedy=remedy, link="pytorch/pytorch#73487")


def _reason(root: Path) -> tuple[str, str]:
    """Return why no driver is loaded, and the command that mends it."""
    load = as_root("modprobe nvidia")
    if not _built(root, "*"):
        return "no driver is installed", install_driver(root)
    if not _built(root, _kernel(root)):
        cause = "the driver is built for another kernel than the one that runs"
        return cause, f"{as_root('dkms autoinstall')} && {load}"
    if (root / "sys/module/nouveau").exists():
        write = f"echo 'blacklist nouveau' | {as_root(f'tee /{_NOUVEAU_OFF}')}"
        return "nouveau has taken the GPU", f"{write} && {as_root('reboot')}"
    key = next((path for path in _KEYS if (root / path).exists()), None)
    if _secure_boot(root) and key:
        cause = "Secure Boot is on, and refuses the module unless its key is enrolled"
        return cause, f"{as_root(f'mokutil --import /{key}')} && {as_root('reboot')}"
    return "the driver is installed, and not loaded", load


def _built(root: Path, kernel: str) -> bool:
    """Tell whether there is a module of the driver for `kernel`, which may be a pattern."""
    return any(root.glob(f"lib/modules/{kernel}/**/nvidia.ko*"))


def _kernel(root: Path) -> str:
    try:
        return (root / "proc/sys/kernel/osrelease").read_text(encoding="utf-8").strip()
    except OSError:
        return "*"


def _secure_boot(root: Path) -> bool:
    """Read the firmware's variable: four bytes of attributes, then 1 where it is on."""
    found = next(iter(root.glob("sys/firmware/efi/efivars/SecureBoot-*")), None)
    return found is not None and found.read_bytes()[4:5] == b"\1"
