"""Torchkiln's own files in an environment: they keep a later install from swapping torch.

pip reads `pip.conf` of the environment that it is in. uv reads nothing there, only UV_CONSTRAINT,
which the activation sets. Both take a URL, in which a path with spaces is one word.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from torchkiln import contents
from torchkiln.environment.record import environment
from torchkiln.files import write_atomic
from torchkiln.lockfile import LockedWheel, VariantLock

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.catalog import Base, Variant
    from torchkiln.environment.record import Environment, Record

_POSIX_OFF: Final = """\
    if [ -n "${_OLD_TORCHKILN_CONSTRAINT+_}" ]; then
        UV_CONSTRAINT="$_OLD_TORCHKILN_CONSTRAINT"
        unset _OLD_TORCHKILN_CONSTRAINT
        [ -n "$UV_CONSTRAINT" ] || unset UV_CONSTRAINT
    fi
"""
_POSIX_ON: Final = """
_OLD_TORCHKILN_CONSTRAINT="${{UV_CONSTRAINT-}}"
export UV_CONSTRAINT="${{UV_CONSTRAINT:+$UV_CONSTRAINT }}"{url}
"""
_FISH_OFF: Final = """\
    if set -q _OLD_TORCHKILN_CONSTRAINT
        set -gx UV_CONSTRAINT $_OLD_TORCHKILN_CONSTRAINT
        set -e _OLD_TORCHKILN_CONSTRAINT
        test -n "$UV_CONSTRAINT"; or set -e UV_CONSTRAINT
    end
"""
_FISH_ON: Final = """
set -g _OLD_TORCHKILN_CONSTRAINT "$UV_CONSTRAINT"
set -gx UV_CONSTRAINT (string trim -- "$UV_CONSTRAINT "{url})
"""
# By script: the line of its `deactivate` before which ours come, and what comes at its end.
_SCRIPTS: Final = {
    "activate": ("    unset VIRTUAL_ENV\n", _POSIX_OFF, _POSIX_ON),
    "activate.fish": ("    set -e VIRTUAL_ENV\n", _FISH_OFF, _FISH_ON),
}


def own_files(env: Environment, base: Base, variant: Variant, record: Record) -> dict[Path, str]:
    """Return the text of each file that is Torchkiln's own, by path."""
    lock = installed_lock(record)
    constraints = env.own / "constraints.txt"
    return {
        constraints: contents.constraints(variant, lock),
        env.own / "image.json": contents.description(base, variant, lock),
        env.root / "pip.conf": f"[install]\nconstraint = {constraints.as_uri()}\n",
    }


def write_own_files(env: Environment, base: Base, variant: Variant, record: Record) -> None:
    """Write them, and let the activation scripts name the constraints to uv."""
    for path, text in own_files(env, base, variant, record).items():
        write_atomic(path, text)
    for name, (anchor, off, on) in _SCRIPTS.items():
        path = env.root / "bin" / name
        text = path.read_text(encoding="utf-8")
        if "TORCHKILN" not in text:
            url = shlex.quote((env.own / "constraints.txt").as_uri())
            write_atomic(path, text.replace(anchor, off + anchor, 1) + on.format(url=url))


def installed_lock(record: Record) -> VariantLock:
    """Return what is installed in the form of a lock, for what is made from locks."""
    wheels = tuple(
        LockedWheel(name=pin.name, version=pin.version, file="", size=0, sha256="")
        for pin in record.pins
    )
    return VariantLock(variant=record.variant, inputs="", python=record.python, wheels=wheels)


def activation(path: Path) -> dict[str, str]:
    """Return by shell the command that activates the environment at `path`."""
    script = environment(path).shown + "/bin/activate"
    return {
        "bash, zsh": f"source {shlex.quote(script)}",
        "fish": f"source {shlex.quote(script + '.fish')}",
        "csh, tcsh": f"source {shlex.quote(script + '.csh')}",
    }
