"""The build of torch: whether it is for this machine's GPUs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torchkiln import gpus
from torchkiln.doctor import builds
from torchkiln.doctor.checks import check, ok, problem, skipped
from torchkiln.doctor.nvidia import gpu_nodes, in_job, open_faults

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts
    from torchkiln.gpus import Capability


@check("cpu-build", area="environment", rank=50)
def cpu_build(facts: Facts) -> Outcome:
    """Look for a torch without CUDA on a machine with an NVIDIA driver."""
    build, driver = builds.installed_build(facts), facts.machine.driver
    if build is None or driver is None:
        return skipped("there is no torch, or no NVIDIA driver")
    if build.cuda or (facts.torch and facts.torch.hip):
        return ok(f"torch {build.release} was built for CUDA {build.cuda}")
    nodes = gpu_nodes(facts.subject.root)
    if (facts.container or in_job(facts)) and len(open_faults(nodes)) == len(nodes):
        return skipped("this container, or job, was given no GPU")
    remedy = builds.command(facts)
    if not remedy:
        return skipped(f"no CUDA build of torch runs with driver {driver.text} on this GPU")
    return problem(
        f"torch {build.release} was built for CPUs, and there is an NVIDIA driver {driver.text}",
        cause="torch.cuda.is_available() is False: this build has no code for any GPU",
        remedy=remedy,
        link="conda-forge/pytorch-cpu-feedstock#364",
    )


@check("gpu-code", area="environment", rank=52)
def gpu_code(facts: Facts) -> Outcome:
    """Compare the GPUs with those that the build of torch has machine code for."""
    build = builds.installed_build(facts)
    known = [gpu for gpu in facts.machine.gpus if gpu.capability]
    if build is None or not build.cuda or not known:
        return skipped("there is no CUDA build of torch, or no GPU that is known")
    code, ptx = _architectures(facts, build)
    bare = [
        gpu
        for gpu in known
        if gpu.capability and not gpus.runs_on(code, gpu.capability) and gpu.capability < ptx
    ]
    if not code or not bare:
        return ok(f"torch {build.release} has code for {known[0]}")
    has = ", ".join(gpus.shown(one) for one in sorted(code))
    return problem(
        f"torch {build.release} for CUDA {build.cuda} has code for {has}, and not for {bare[0]}",
        cause="every operation on it fails: no kernel image is available for execution",
        remedy=builds.command(facts),
        link="pytorch/pytorch#31285",
    )


def _architectures(facts: Facts, build: builds.Build) -> tuple[tuple[Capability, ...], Capability]:
    """Return what the build has machine code for, and from where on its PTX serves."""
    told = facts.torch.archs if facts.torch else ()
    code = [_capability(name) for name in told if name.startswith("sm_")]
    ptx = [_capability(name) for name in told if name.startswith("compute_")]
    known = tuple(code) or gpus.architectures(build.release, build.cuda)
    return known, min(ptx, default=(99, 0))


def _capability(name: str) -> Capability:
    """Return (9, 0) of `sm_90a`."""
    digits = re.sub(r"\D", "", name)
    return int(digits[:-1]), int(digits[-1])


@check("torch-on-gpu", area="environment", rank=68, last=True)
def on_gpu(facts: Facts) -> Outcome:
    """Let torch put a number on the GPU."""
    torch, machine = facts.torch, facts.machine
    if torch is None or not torch.cuda or machine.driver is None or not machine.gpus:
        return skipped("there is no CUDA build of torch that works, or no GPU")
    if torch.available and not torch.error:
        return ok(f"torch {torch.version} computes on {machine.gpus[0].name}")
    said = torch.error or torch.output.strip().rpartition("\n")[2]
    return problem(
        said or "torch.cuda.is_available() is False",
        cause="torch cannot use the GPU, and no other check knows why",
        remedy="",
    )
