"""Which torch is installed, and which build of it this machine can run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchkiln import drivers, gpus
from torchkiln.doctor.installer import conda, install

if TYPE_CHECKING:
    from torchkiln.doctor.facts import Facts
    from torchkiln.machine import Machine

_TRIO: Final = ("torch", "torchvision", "torchaudio")


@dataclass(frozen=True, kw_only=True)
class Build:
    """An installed torch; `cuda` is the CUDA that it was built with, "" for another build."""

    release: str
    cuda: str


def installed_build(facts: Facts) -> Build | None:
    """Return the torch of the environment, read in its files: it may not be importable."""
    found = facts.environment.find("torch") if facts.environment else None
    if found is None:
        return None
    release = found.version.partition("+")[0]
    try:
        text = (found.folder / "torch/version.py").read_text(encoding="utf-8")
    except OSError:
        return Build(release=release, cuda=facts.torch.cuda if facts.torch else "")
    match = re.search(r"^cuda\b[^=]*= '([\d.]+)'", text, re.MULTILINE)
    return Build(release=release, cuda=match[1] if match else "")


def wants_gpu(facts: Facts) -> bool:
    """Tell whether a build for CUDA is installed; one for CPUs is right without any GPU."""
    build = installed_build(facts)
    return bool(build and build.cuda)


def works(facts: Facts) -> bool:
    """Tell whether torch itself has put a number on a GPU."""
    return bool(facts.torch and facts.torch.available and not facts.torch.error)


def fits(cuda: str, release: str, machine: Machine) -> bool:
    """Tell whether the driver runs `cuda`, and the build of `release` has code for every GPU."""
    archs = gpus.architectures(release, cuda)
    known = [gpu.capability for gpu in machine.gpus if gpu.capability]
    return (
        machine.driver is not None
        and machine.driver.reaches(drivers.floor(cuda, machine.platform))
        and all(gpus.runs_on(archs, capability) for capability in known)
    )


def command(facts: Facts) -> str:
    """Return the command that installs the newest build which runs here, "" where none does.

    The release stays where it is to be had, so that nothing else of the environment changes.
    """
    environment, build = facts.environment, installed_build(facts)
    if environment is None or build is None:
        return ""
    same = [cuda for cuda in gpus.cudas(build.release) if fits(cuda, build.release, facts.machine)]
    other = [cuda for cuda, last in gpus.last_releases() if fits(cuda, last, facts.machine)]
    if not same and not other:
        return ""
    cuda = (same or other)[-1]
    trio = [one for one in map(environment.find, _TRIO) if one]
    environ = facts.subject.environ
    if environment.by_conda(trio[0]):
        words = ("--channel", "conda-forge", "pytorch", f"cuda-version={cuda}")
        return conda(environment, environ, *words)
    tag = f"cu{cuda.replace('.', '')}"
    if same:
        pins = [f"{one.name}=={one.version.partition('+')[0]}+{tag}" for one in trio]
        return install(environment, environ, *pins, page=tag)
    names = [one.name for one in trio]
    return install(environment, environ, *names, page=tag, again=True)
