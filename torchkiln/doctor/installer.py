"""The command that installs into an environment: nothing else here chooses between conda, uv, pip.

conda for what conda has put there; a virtual environment where the Python is externally managed
(PEP 668), which pip and uv refuse to touch; uv where there is no pip; else pip.
"""

from __future__ import annotations

import re
import shlex
import shutil
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.container import as_root

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.doctor.environment import Environment

INDEX: Final = "https://download.pytorch.org/whl"
"""The PyTorch index; each build has a page of its own under it: `/cpu`, `/cu126`."""

_CONDA_NAMES: Final = {"torch": "pytorch"}
_CONDAS: Final = ("conda", "mamba", "micromamba")
_NEW: Final = "torch-env"  # `.venv` may be somebody's


def install(
    environment: Environment,
    environ: Mapping[str, str],
    *wanted: str,
    page: str = "",
    alone: bool = False,
    again: bool = False,
) -> str:
    """Return a shell command that installs the requirements `wanted`.

    They come from the page of the PyTorch index for a build (`cu126`); `alone` leaves out what they
    require, `again` installs them even where they are there. The first says who has put it there.
    """
    if _by_conda(environment, wanted[0]):
        options = ["--no-deps"] * alone + ["--force-reinstall"] * again
        return conda(environment, environ, *options, *map(_spec, wanted))
    if _closed(environment, environ):
        return _beside(environment, wanted, page)
    uv = _is_for_uv(environment, environ)
    options = ["--reinstall" if uv else "--force-reinstall"] * again + ["--no-deps"] * alone
    words = _quoted(*options, *_index("--index-url", page), *wanted)
    python = shlex.quote(str(environment.python))
    if uv:
        return f"uv pip install --python {python} {words}"
    bring = "" if environment.find("pip") else f"{_bundle(environment)}{python} -m ensurepip && "
    return f"{bring}{python} -m pip install {words}"


def reinstall(environment: Environment, environ: Mapping[str, str], name: str) -> str:
    """Return a shell command that installs what there is of `name` once more, and nothing else."""
    found = environment.find(name)
    wanted, page = pin(name, found.version) if found else (name, "")
    return install(environment, environ, wanted, page=page, alone=True, again=True)


def uninstall(environment: Environment, environ: Mapping[str, str], name: str) -> str:
    """Return a shell command that takes away what pip or uv has installed."""
    python = shlex.quote(str(environment.python))
    if _is_for_uv(environment, environ):
        return f"uv pip uninstall --python {python} {name}"
    return f"{python} -m pip uninstall --yes {name}"


def conda(environment: Environment, environ: Mapping[str, str], *words: str) -> str:
    """Return a shell command that installs `words`, specs and options, into a conda prefix."""
    path = environ.get("PATH")
    program = next((one for one in _CONDAS if shutil.which(one, path=path)), "conda")
    return f"{program} install --yes --prefix {_quoted(str(environment.prefix), *words)}"


def page_of(version: str) -> str:
    """Return the page of a build, `cpu` of `2.13.0+cpu`; "" for Debian's or one's own."""
    local = version.partition("+")[2]
    return local if re.fullmatch(r"cpu|xpu|cu\d+|rocm[\d.]+", local) else ""


def pin(name: str, version: str) -> tuple[str, str]:
    """Return the requirement of what is there, and the page that has it; see `page_of`."""
    page = page_of(version)
    return f"{name}=={version if page else version.partition('+')[0]}", page


def _by_conda(environment: Environment, wanted: str) -> bool:
    """Tell whether conda has put it there; what is not there yet goes where torch came from."""
    found = environment.find(_name(wanted)) or environment.find("torch")
    return found is not None and environment.by_conda(found)


def _name(wanted: str) -> str:
    return re.split(r"[^\w.-]", wanted, maxsplit=1)[0]


def _spec(wanted: str) -> str:
    """Return the spec of conda for a requirement: it has no local versions."""
    name = _name(wanted)
    return _CONDA_NAMES.get(name, name) + re.sub(r"\+.*", "", wanted[len(name) :])


def _closed(environment: Environment, environ: Mapping[str, str]) -> bool:
    told = environ.get("PIP_BREAK_SYSTEM_PACKAGES", "").lower()
    return environment.managed and told not in {"1", "true", "yes", "y", "on", "t"}


def _beside(environment: Environment, wanted: tuple[str, ...], page: str) -> str:
    """Return the command that makes a virtual environment and installs there, and torch too."""
    torch = environment.find("torch")
    options = _index("--index-url", page)
    if torch and "torch" not in map(_name, wanted):
        own, page = pin("torch", torch.version)
        wanted = (own, *wanted)
        options = options or _index("--extra-index-url", page)
    words = _quoted(*options, *wanted)
    make = f"{shlex.quote(str(environment.python))} -m venv {_NEW}"
    return f"{_bundle(environment)}{make} && {_NEW}/bin/python -m pip install {words}"


def _bundle(environment: Environment) -> str:
    """Return the command that installs what `venv` and `ensurepip` need: Debian splits it off."""
    name = ".".join(map(str, environment.version[:2]))
    return (
        "" if environment.ensurepip else f"{as_root(f'apt-get install -y python{name}-venv')} && "
    )


def _is_for_uv(environment: Environment, environ: Mapping[str, str]) -> bool:
    # Whoever installed with uv has one, if not on this PATH.
    used = any(one.installer == "uv" for one in environment.installed)
    has = used or shutil.which("uv", path=environ.get("PATH")) is not None
    return has and environment.find("pip") is None


def _index(option: str, page: str) -> list[str]:
    return [option, f"{INDEX}/{page}"] if page else []


def _quoted(*words: str) -> str:
    return " ".join(map(shlex.quote, words))
