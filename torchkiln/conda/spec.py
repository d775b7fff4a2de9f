"""What a conda environment of a variant is made from, and which channel has its torch.

Facts as data, collected on 2026-11-23 from pytorch.org's previous-versions page, pytorch/pytorch
issue 138506 (the end of the `pytorch` channel) and the history of conda-forge/pytorch-cpu-feedstock
(74dd3d4). No conda channel can be reached from where this was written: nothing here was solved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from torchkiln.lockfile import KERNEL

if TYPE_CHECKING:
    from torchkiln.catalog import Variant
    from torchkiln.lockfile import VariantLock

Source = Literal["conda-forge", "pytorch", "pip"]

# The `pytorch` channel ended with 2.5.1: its CUDA builds, by torch's minor. Each has a CPU build.
_PYTORCH_CHANNEL: Final = {
    "1.13": ("11.6", "11.7"),
    "2.0": ("11.7", "11.8"),
    "2.1": ("11.8", "12.1"),
    "2.2": ("11.8", "12.1"),
    "2.3": ("11.8", "12.1"),
    "2.4": ("11.8", "12.1", "12.4"),
    "2.5": ("11.8", "12.1", "12.4"),
}
# conda-forge's CUDA builds after that. Each has a CPU build.
_CONDA_FORGE: Final = {
    "2.6.0": ("12.6",),
    "2.7.0": ("12.6",),
    "2.7.1": ("12.6", "12.9"),
    "2.8.0": ("12.9",),
    "2.9.0": ("12.9",),
    "2.9.1": ("12.9",),
    "2.10.0": ("12.9", "13.0"),
    "2.11.0": ("12.9", "13.0"),
    "2.12.0": ("12.9", "13.0"),
    "2.12.1": ("12.9", "13.0"),
    "2.13.0": ("12.9", "13.0"),
}


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A package beside torch, as locked; `allowed` is what the catalog lets it be (PEP 440)."""

    name: str
    version: str
    allowed: str

    def __str__(self) -> str:
        """Return it as conda writes it: `numpy=2.4.6`."""
        return f"{self.name}={self.version}"

    @property
    def relaxable(self) -> bool:
        """Tell whether the catalog lets it be another version."""
        return "==" not in self.allowed


@dataclass(frozen=True, kw_only=True)
class CondaSpec:
    """An environment.yml.

    `core` is Python, torch and its CUDA, which are never anything else. `pip` is whether the wheels
    of requirements.txt are installed into it; `needs_driver` is the CUDA that conda wants to see in
    the machine's driver before it installs (`__cuda`).
    """

    channels: tuple[str, ...]
    core: tuple[str, ...]
    companions: tuple[Companion, ...]
    pip: bool
    needs_driver: str | None

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Return all of its match specs."""
        return (*self.core, *map(str, self.companions))


def source(torch: str, cuda: str | None) -> Source:
    """Return the channel that has this build of torch; `pip` where none is known to have it."""
    minor = ".".join(torch.split(".")[:2])
    if minor in _PYTORCH_CHANNEL and cuda in (None, *_PYTORCH_CHANNEL[minor]):
        return "pytorch"
    if torch in _CONDA_FORGE and cuda in (None, *_CONDA_FORGE[torch]):
        return "conda-forge"
    return "pip"


def conda_spec(variant: Variant, lock: VariantLock) -> CondaSpec:
    """Return the environment of `variant`: torch from its channel, companions as locked.

    `lock` is that of an environment, a kernel for Jupyter included (`read_environment_lock`).
    torch is named with its build string, so that no solver takes the CPU build in its stead.
    """
    where = source(variant.torch, variant.cuda)
    if where == "pip":
        channels, core = ["conda-forge"], ["pip"]
    elif where == "pytorch":
        channels = ["pytorch", *(["nvidia"] if variant.cuda else []), "conda-forge"]
        build = f"cuda{variant.cuda}" if variant.cuda else "cpu"  # py3.11_cuda11.7_cudnn8.5.0_0
        metapackage = f"pytorch-cuda={variant.cuda}" if variant.cuda else "cpuonly"
        # mkl 2024.1 dropped iJIT_NotifyEvent, which the channel's torch is linked against.
        core = [f"pytorch={variant.torch}=*_{build}_*", metapackage, "mkl<2024.1"]
    elif variant.cuda:
        channels = ["conda-forge"]
        build = f"cuda{variant.cuda.replace('.', '')}*"  # cuda130_mkl_py311_h0123456_300
        core = [f"pytorch={variant.torch}={build}", f"cuda-version={variant.cuda}"]
    else:
        channels, core = ["conda-forge"], [f"pytorch={variant.torch}=cpu*"]
    return CondaSpec(
        channels=(*channels, "nodefaults"),
        core=(f"python={lock.python}", *core),
        companions=() if where == "pip" else _companions(variant, lock),
        pip=where == "pip",
        needs_driver=None if where == "pip" else variant.cuda,
    )


def _companions(variant: Variant, lock: VariantLock) -> tuple[Companion, ...]:
    """Return the catalog's packages and the kernel for Jupyter as they are locked, by name."""
    every = map(Requirement, (*variant.packages, *KERNEL))
    asked = {canonicalize_name(one.name): one for one in every}
    return tuple(
        Companion(
            name=name,
            version=lock.wheel(name).version.split("+")[0],
            allowed=str(asked[name].specifier),
        )
        for name in sorted(asked)
    )
