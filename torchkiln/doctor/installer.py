"""The command that installs into an environment, by what it is managed with."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.doctor.environment import Environment

INDEX: Final = "https://download.pytorch.org/whl"
"""The PyTorch index; each build has a page of its own under it: `/cpu`, `/cu126`."""


def install(environment: Environment, environ: Mapping[str, str], *words: str) -> str:
    """Return a shell command that installs `words`, requirements and options that pip and uv know.

    The environment's own pip, else uv, which needs none, else the pip that Python brings.
    """
    python = shlex.quote(str(environment.python))
    wanted = " ".join(shlex.quote(word) for word in words)
    if environment.find("pip"):
        return f"{python} -m pip install {wanted}"
    if shutil.which("uv", path=environ.get("PATH")):
        return f"uv pip install --python {python} {wanted}"
    return f"{python} -m ensurepip && {python} -m pip install {wanted}"


def reinstall(environment: Environment, environ: Mapping[str, str], *words: str) -> str:
    """Return a shell command that puts `words` in the place of what is there, and nothing else."""
    options = ["--no-deps"]
    has_pip = environment.find("pip") or not shutil.which("uv", path=environ.get("PATH"))
    options.append("--force-reinstall" if has_pip else "--reinstall")
    return install(environment, environ, *options, *words)
