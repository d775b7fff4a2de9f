"""pip's settings: the command that takes one away, from where it is."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.doctor.facts import Facts

_KINDS: Final = ("site", "user", "global")
"""pip's files, the one that wins first: of the environment, of the user, of the machine."""


def pip(facts: Facts, words: str) -> str:
    """Return a shell command of the examined Python's pip."""
    python = facts.environment.python if facts.environment else "python3"
    return f"{shlex.quote(str(python))} -m pip {words}"


def change(facts: Facts, name: str, value: str = "") -> str:
    """Return a shell command after which pip's setting `name` is `value`, or is not set."""
    variable = f"PIP_{name.upper().replace('-', '_')}"
    if facts.subject.environ.get(variable):
        return f"export {variable}={shlex.quote(value)}" if value else f"unset {variable}"
    for kind, key in _places(facts, name):
        words = f"set {key} {shlex.quote(value)}" if value else f"unset {key}"
        root = "sudo " if kind == "global" and os.geteuid() else ""
        return root + pip(facts, f"config --{kind} {words}")
    # A file that the variable names is none that pip would change.
    return "unset PIP_CONFIG_FILE"


def _places(facts: Facts, name: str) -> Iterator[tuple[str, str]]:
    """Give the kinds of file that set `name`, and the key: `global.proxy`, `install.proxy`."""
    python = facts.environment.python if facts.environment else "python3"
    for kind in _KINDS:
        command = [python, "-m", "pip", "config", f"--{kind}", "list"]
        environ = dict(facts.subject.environ)
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            key = line.partition("=")[0]
            section, _, setting = key.rpartition(".")
            if setting == name and section != ":env:":
                yield kind, key
