"""What is gathered once, before any check: the machine, the environment, torch's own answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchkiln.doctor.container import container_of
from torchkiln.doctor.environment import Environment, examine
from torchkiln.doctor.torch_probe import TorchProbe, ask_torch
from torchkiln.machine import Machine, this_machine

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is examined: a machine by its file system and environment variables, and a Python.

    `python` is None where no Python was found; `patience` is in seconds, for each thing that is
    asked.
    """

    environ: Mapping[str, str]
    python: Path | None
    root: Path = Path("/")
    patience: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What checks look at.

    `container` is what the machine is a container of (`docker`, `podman`, `apptainer` ...), ""
    where it is none. `environment` and `torch` are None where there is no Python that answers, or
    no torch.
    """

    subject: Subject
    machine: Machine
    container: str
    environment: Environment | None
    torch: TorchProbe | None


def gather(subject: Subject) -> Facts:
    """Return the facts of `subject`; whatever does not answer in time is missing in them."""
    environment = examine(subject.python, subject.environ, subject.patience)
    has_torch = environment is not None and environment.find("torch") is not None
    return Facts(
        subject=subject,
        machine=this_machine(subject.environ, subject.root),
        container=container_of(subject.root, subject.environ),
        environment=environment,
        torch=ask_torch(environment, subject.environ, subject.patience)
        if environment and has_torch
        else None,
    )
