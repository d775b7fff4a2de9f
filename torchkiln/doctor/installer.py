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
    if _has_uv(environment, environ):
        return f"uv pip install --python {python} {wanted}"
    return f"{python} -m ensurepip && {python} -m pip install {wanted}"


def reinstall(environment: Environment, environ: Mapping[str, str], name: str) -> str:
    """Return a shell command that installs what there is of `name` once more, and nothing else."""
    found = environment.find(name)
    version = found.version if found else ""
    uv = not environment.find("pip") and _has_uv(environment, environ)
    return install(
        environment,
        environ,
        *("--reinstall" if uv else "--force-reinstall", "--no-deps"),
        *page(version),
        f"{name}=={version}" if version else name,
    )


def _has_uv(environment: Environment, environ: Mapping[str, str]) -> bool:
    # Whoever installed with uv has one, if not on this PATH.
    used = any(one.installer == "uv" for one in environment.installed)
    return used or shutil.which("uv", path=environ.get("PATH")) is not None


def page(version: str) -> list[str]:
    """Return the options that name the index of a build: of `2.13.0+cpu` that of `/cpu`."""
    local = version.partition("+")[2]
    return ["--index-url", f"{INDEX}/{local}"] if local else []
