"""The GPUs as their driver shows them: which are hidden, lost, divided or closed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from torchkiln.doctor import builds
from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.container import as_root
from torchkiln.doctor.nvidia import ask_smi, gpu_nodes, listed_gpus

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

_LOST: Final = re.compile(r"Unable to determine the device handle|GPU is lost|fallen off the bus")
_SHOW: Final = "unset CUDA_VISIBLE_DEVICES"


@check("gpu-lost", area="machine", rank=11)
def gpu_lost(facts: Facts) -> Outcome:
    """Ask nvidia-smi for the GPUs; it names one that no longer answers."""
    if not gpu_nodes(facts.subject.root):
        return skipped("there are no device nodes of GPUs")
    found = _LOST.search(ask_smi(facts, "-L"))
    if not found:
        return ok("nvidia-smi names no GPU that is lost")
    return problem(
        f"nvidia-smi: {found[0]}",
        cause="a GPU does not answer any more (Xid 79): heat, power, its slot or its driver",
        remedy=as_root("reboot"),
        link="NVIDIA/open-gpu-kernel-modules#507",
    )


@check("cuda-visible-devices", area="machine", rank=15)
def visible_devices(facts: Facts) -> Outcome:
    """Read CUDA_VISIBLE_DEVICES as CUDA does: it ends at the first entry that is no GPU."""
    text = facts.subject.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(facts.machine.gpus) or listed_gpus(facts.subject.root)
    if text is None or not count:
        return skipped("it is not set, or there is no GPU")
    build = builds.installed_build(facts)
    if build and not build.cuda:
        return skipped("torch was built without CUDA")
    entries = [entry.strip() for entry in text.split(",")]
    valid = _valid(entries, count, facts)
    if valid == len(entries):
        return ok(f"CUDA_VISIBLE_DEVICES shows {valid} of {count} GPUs")
    wrong = _shown(entries[valid])
    if valid:
        cause = f"CUDA stops reading at `{wrong}`, which is no GPU here"
        evidence = f"CUDA_VISIBLE_DEVICES shows {valid} of the {len(entries)} GPUs that it names"
        return warning(evidence, cause=cause, remedy=_SHOW)
    evidence = f"CUDA_VISIBLE_DEVICES is `{wrong}`, and there are {count} GPUs"
    cause = "it hides every GPU: torch.cuda.is_available() is False"
    return problem(evidence, cause=cause, remedy=_SHOW, link="pytorch/pytorch#1040")


def _valid(entries: list[str], count: int, facts: Facts) -> int:
    """Return how many of `entries` name a GPU before one that does not."""
    known = ask_smi(facts, "-L") if any("-" in entry[1:] for entry in entries) else ""
    for number, entry in enumerate(entries):
        if entry.isdigit():
            valid = int(entry) < count
        elif entry.startswith(("GPU-", "MIG-")):
            valid = f"UUID: {entry}" in known or "UUID: " not in known
        else:
            valid = False
        if not valid:
            return number
    return len(entries)


def _shown(entry: str) -> str:
    """Return `entry` without the serial of a device, which is nobody's business."""
    return f"{entry[:4]}..." if entry.startswith(("GPU-", "MIG-")) else entry


@check("mig-instances", area="machine", rank=21)
def mig_instances(facts: Facts) -> Outcome:
    """Look whether a GPU that is to be divided has been: CUDA sees no undivided one."""
    if not gpu_nodes(facts.subject.root):
        return skipped("there are no device nodes of GPUs")
    modes = ask_smi(facts, "--query-gpu=mig.mode.current", "--format=csv,noheader").split()
    if "Enabled" not in modes or re.search(r"^\s+MIG ", ask_smi(facts, "-L"), re.MULTILINE):
        return ok("no GPU waits to be divided")
    if "Disabled" in modes or "[N/A]" in modes:
        return ok("some GPUs wait to be divided, others are whole")
    return problem(
        "MIG is enabled, and there is no MIG device",
        cause="CUDA sees a GPU in MIG mode by its instances alone, and it has none",
        remedy=as_root("nvidia-smi -mig 0"),
        link="pytorch/pytorch#130181",
    )


@check("compute-mode", area="machine", rank=22)
def compute_mode(facts: Facts) -> Outcome:
    """Look whether the GPUs are closed to all computing."""
    if not gpu_nodes(facts.subject.root):
        return skipped("there are no device nodes of GPUs")
    modes = ask_smi(facts, "--query-gpu=compute_mode", "--format=csv,noheader").split()
    if not modes or set(modes) != {"Prohibited"}:
        return ok("the GPUs take work")
    return problem(
        "the compute mode of every GPU is Prohibited",
        cause="CUDA then says that all devices are busy or unavailable",
        remedy=as_root("nvidia-smi -c DEFAULT"),
        link="pytorch/pytorch#100691",
    )
