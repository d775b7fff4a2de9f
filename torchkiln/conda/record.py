"""What a conda environment of ours says of itself: its variant and its lock, written last."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torchkiln.conda.lock import lock_path, read_spec
from torchkiln.environment.record import CONDA_RECORD
from torchkiln.errors import CondaError
from torchkiln.files import write_atomic
from torchkiln.lockfile import digest, read_environment_lock

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.catalog import Variant
    from torchkiln.environment.record import Environment
    from torchkiln.pipeline import Project


@dataclass(frozen=True, kw_only=True)
class CondaRecord:
    """What an environment was made from; `lock` is the digest of the locks of `variant`."""

    variant: str
    lock: str


def record_path(env: Environment) -> Path:
    """Return where the record lies."""
    return env.own / CONDA_RECORD


def read(env: Environment) -> CondaRecord | None:
    """Return the record of a finished conda environment, None where there is none."""
    path = record_path(env)
    try:
        return CondaRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        what = f"the record of the environment cannot be read: {env.shown}"
        raise CondaError(what, str(error), env.recreate) from None


def write(env: Environment, record: CondaRecord) -> None:
    """Say that the environment is finished, and what it was made from."""
    write_atomic(record_path(env), json.dumps(asdict(record), indent=1) + "\n")


def record_of(project: Project, variant: Variant) -> CondaRecord:
    """Return what an environment of `variant` would be made from today."""
    lock = read_environment_lock(project.root, project.catalog, variant)
    text = lock_path(project, variant).read_text(encoding="utf-8")
    # Where torch comes from a channel, so does the rest: the wheels may be other ones by now.
    wheels = [wheel.sha256 for wheel in lock.wheels] if read_spec(project, variant).pip else []
    return CondaRecord(variant=variant.id, lock=digest([text, wheels]))
