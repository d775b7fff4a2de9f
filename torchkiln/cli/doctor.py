"""The task that says why PyTorch does not work here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from invoke.exceptions import Exit
from invoke.tasks import task

from torchkiln.cli.flags import told

if TYPE_CHECKING:
    from invoke.context import Context


@task(
    name="doctor",
    help={
        "python": "what to examine: a Python, a venv or a conda prefix (default: the one in use)",
        "image": "an image that is to be pulled: ask its registry for it",
        "offline": "ask nothing of any network",
        "json": "print one JSON object",
        "strict": "take a warning for a problem",
        "verbose": "show what is well too",
        "list": "show the checks, and run none",
    },
)
@told
def doctor(
    c: Context,
    python: str = "",
    image: str = "",
    offline: bool = False,
    json: bool = False,
    strict: bool = False,
    verbose: bool = False,
    list: bool = False,
) -> None:
    """Say why PyTorch does not work here, and what mends it."""
    flags = {
        "--offline": offline,
        "--json": json,
        "--strict": strict,
        "--verbose": verbose,
        "--list": list,
    }
    words = [flag for flag, given in flags.items() if given]
    named = {"--python": python, "--image": image}
    words += [word for flag, text in named.items() if text for word in (flag, text)]
    # Not above: it is 45 modules, which every other task would wait for.
    code = importlib.import_module("torchkiln.doctor.__main__").main(words)
    if code:
        raise Exit(code=code)
