"""What all tasks share: the flags that name a variant, and how failures are shown."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from invoke.exceptions import Exit

from torchkiln import catalog, pipeline
from torchkiln.errors import KilnError
from torchkiln.hold import in_use
from torchkiln.machine import this_machine
from torchkiln.progress import say
from torchkiln.recommend import recommend
from torchkiln.store import Store, default_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchkiln.catalog import Variant
    from torchkiln.pipeline import Project

ROOT: Final = Path(__file__).resolve().parents[2]
WHICH: Final = {
    "cpu": "the CPU variant",
    "cuda": "a CUDA variant: 117, 11.7 or cu117; auto: what this machine's GPUs can run",
}
WHERE: Final = {
    "engine": "where it runs: kiln (the sandbox, by default), docker, podman",
    "gpus": "GPUs of Docker or Podman: all, or 0,1",
}
FROZEN: Final = "fail unless the base is exactly the locked one"
_Task = TypeVar("_Task", bound="Callable[..., Any]")


def expected(function: _Task) -> _Task:
    """Let `gc` take nothing from the store while the task runs, and show its failures."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - invoke's own signature
        with in_use(Store(default_root(os.environ))):
            return function(*args, **kwargs)

    return told(wrapper)  # type: ignore[return-value]


def told(function: _Task) -> _Task:
    """Show expected failures without a traceback, each with its own exit code."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - invoke's own signature
        # A batch system's way to say stop; like Ctrl-C, it must leave no container behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            return function(*args, **kwargs)
        except KilnError as error:
            raise Exit(str(error), error.exit_code) from error
        except KeyboardInterrupt:
            message = "stopped"
            raise Exit(message, 130) from None

    return wrapper  # type: ignore[return-value]


def selected(cpu: bool, cuda: str) -> tuple[Project, Variant]:
    """Return the project and the variant that the flags name."""
    project = pipeline.open_project(ROOT)
    if cuda.lower() != "auto" or cpu:
        return project, catalog.select(project.catalog, cpu=cpu, cuda=cuda or None)
    locked = {variant.id for variant in pipeline.locked_variants(project)}
    found = recommend(project.catalog.variants, locked, this_machine(project.environ))
    say(f"`--cuda auto` is `{found.variant.id}`" + (f": {found.word}" if found.word else ""))
    return project, found.variant


def after_dashes() -> list[str]:
    """Return the words after `--` as the shell gave them; invoke joins them and loses quotes."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []


def as_json(value: object) -> str:
    """Return what `--json` prints."""
    return json.dumps(value, indent=2, sort_keys=True)
