"""What is gathered once, before any check: the machine, the environment, torch's own answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torchkiln.doctor.apart import run_apart
from torchkiln.doctor.container import container_of
from torchkiln.doctor.environment import Environment, examine
from torchkiln.doctor.torch_probe import TorchProbe, ask_torch
from torchkiln.machine import Machine, this_machine

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is examined: a machine by its file system and environment variables, and a Python.

    `python` is None where no Python was found; `image` is a reference that is to be pulled, or "";
    `patience` is in seconds, for each thing that is asked.
    """

    environ: Mapping[str, str]
    python: Path | None
    root: Path = Path("/")
    image: str = ""
    patience: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What checks look at.

    `container` is what the machine is a container of (`docker`, `podman`, `apptainer` ...), ""
    where it is none. `environment` and `torch` are None where there is no Python that answers, or
    no torch. `failures` says, by the fact's name, why it could not be gathered.
    """

    subject: Subject
    machine: Machine
    container: str
    environment: Environment | None
    torch: TorchProbe | None
    failures: Mapping[str, str] = field(default_factory=dict)


def gather(subject: Subject) -> Facts:
    """Return the facts of `subject`; what crashes or does not answer is missing, and named."""
    environ, patience = subject.environ, subject.patience
    limit = 3 * patience  # each asks several things, and gives each `patience`
    done = run_apart(
        {
            "machine": partial(this_machine, environ, subject.root),
            "container": partial(container_of, subject.root, environ),
            "environment": partial(examine, subject.python, environ, patience),
        },
        limit,
    )
    environment: Environment | None = done["environment"].value
    if environment and environment.find("torch"):
        done |= run_apart({"torch": partial(ask_torch, environment, environ, patience)}, limit)
    return Facts(
        subject=subject,
        machine=done["machine"].value or Machine(driver=None, gpus=()),
        container=done["container"].value or "",
        environment=environment,
        torch=done["torch"].value if "torch" in done else None,
        failures={name: one.failure for name, one in done.items() if one.failure},
    )
