"""The environment's kernel in the user's Jupyter: named after its folder, in nobody else's place.

A Jupyter that runs in the environment itself finds the kernel anyway.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.environment.installer import plain
from torchkiln.errors import EnvError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.catalog import Variant
    from torchkiln.environment.record import Environment

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._-]+")  # what the name of a kernel cannot have
_LIST: Final = """\
import json
from jupyter_client.kernelspec import KernelSpecManager
every = KernelSpecManager().get_all_specs().items()
print(json.dumps({name: [one["resource_dir"], *one["spec"]["argv"]] for name, one in every}))
"""


def register(env: Environment, variant: Variant, environ: Mapping[str, str]) -> str:
    """Let the user's Jupyter list the environment, and return the name: `torchkiln-cu117`.

    A name that another environment has which is still there raises `EnvError`.
    """
    name = f"torchkiln-{_FOREIGN.sub('-', env.root.name)}"
    folder, python = _kernels(env, environ).get(name.lower(), ("", ""))
    if python and python != str(env.interpreter) and Path(python).exists():
        what = f"there is another kernel of this name: {name}"
        raise EnvError(what, f"it is that of {python}", f"rm -r {folder}")
    cuda = f"CUDA {variant.cuda}" if variant.cuda else "CPU"
    shown = f"PyTorch {variant.torch} ({cuda}, {env.root.name})"
    words = ["-m", "ipykernel", "install", "--user", "--name", name, "--display-name", shown]
    _run(env, words, environ)
    return name


def _kernels(env: Environment, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the kernels that Jupyter lists: folder and program, by name (in lower case)."""
    listed = json.loads(_run(env, ["-c", _LIST], environ))
    return {name: (folder, program) for name, (folder, program, *_) in listed.items()}


def _run(env: Environment, words: list[str], environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        [str(env.interpreter), "-I", *words],
        env=plain(environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        what = f"the kernel of {env.shown} cannot be put into your Jupyter's list"
        hint = "name a folder that can be written: export JUPYTER_DATA_DIR=<folder>"
        raise EnvError(what, done.stderr.strip()[-2000:], hint)
    return done.stdout
