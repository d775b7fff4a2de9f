"""A kernel for Jupyter: ipykernel beside the lock, and the environment's name in Jupyter's list.

ipykernel is in no lock: it is resolved against the lock's versions, by hash, and the record says
which one it was.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from torchkiln.environment.installer import plain
from torchkiln.environment.wanted import resolve_pins
from torchkiln.errors import EnvError
from torchkiln.progress import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.catalog import Variant
    from torchkiln.environment.record import Environment, Pin
    from torchkiln.environment.wanted import Platform, Wanted
    from torchkiln.lockfile import VariantLock
    from torchkiln.resolve import Sources


def requirements(
    wanted: Wanted,
    lock: VariantLock,
    here: Platform,
    found: Sources,
    environ: Mapping[str, str],
) -> tuple[Pin, ...]:
    """Return what a kernel needs that the environment has not; uses the network."""
    say("resolving ipykernel against the versions of the lock")
    there = {pin.name for pin in wanted.pins}
    pins = resolve_pins(["ipykernel"], lock, here, found, environ)
    return tuple(pin for pin in pins if pin.name not in there)


def register(env: Environment, variant: Variant, environ: Mapping[str, str]) -> None:
    """Let the user's Jupyter list the environment: `torchkiln-cu117`."""
    name = f"torchkiln-{variant.id}"
    cuda = f"CUDA {variant.cuda}" if variant.cuda else "CPU"
    shown = f"PyTorch {variant.torch} ({cuda}, {env.root.name})"
    command = [str(env.interpreter), "-I", "-m", "ipykernel", "install", "--user"]
    done = subprocess.run(
        [*command, "--name", name, "--display-name", shown],
        env=plain(environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        what = f"the kernel cannot be registered: {name}"
        raise EnvError(what, done.stderr.strip()[-2000:], "./kiln env ... without --jupyter")
