"""The Python itself: whether it starts, and whether torch has wheels for it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, problem, skipped
from torchkiln.releases import RELEASES, numbers

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Environment
    from torchkiln.doctor.facts import Facts

_LAST_INTEL_MAC: Final = (2, 2, 2)
"""The last torch for macOS on Intel (pytorch/pytorch issue 114602)."""

_INTEL: Final = ("x86_64", "AMD64")


@check("python-starts", area="environment", rank=38)
def starts(facts: Facts) -> Outcome:
    """Start the Python that is examined, and let it tell where it looks for packages."""
    python = facts.subject.python
    if python is None:
        return skipped("there is no Python to examine")
    if facts.environment:
        version = ".".join(map(str, facts.environment.version))
        return ok(f"{facts.environment.implementation} {version}")
    folder = python.parent.parent
    evidence = f"{python}: {facts.failures.get('environment', 'no answer')}"
    if facts.subject.environ.get("PYTHONHOME"):
        cause = "PYTHONHOME names the library of another Python, as environment modules set it"
        return problem(evidence, cause=cause, remedy="unset PYTHONHOME")
    if not (folder / "pyvenv.cfg").is_file():
        cause = "the Python does not start, and it is no virtual environment that could be renewed"
        return problem(evidence, cause=cause, remedy="")
    return problem(
        evidence,
        cause="the Python does not start: the one that the environment was made from has changed",
        remedy=f"python3 -m venv --upgrade {shlex.quote(str(folder))}",
    )


@check("python-wheels", area="environment", rank=46)
def wheels(facts: Facts) -> Outcome:
    """Compare the Python with those that torch has wheels for."""
    found = facts.environment
    if found is None:
        return skipped("there is no Python that answers")
    torch = found.find("torch")
    if torch:
        return ok(f"torch {torch.version} is installed")
    if fault := _fault(found):
        return problem(
            fault,
            cause="there is no torch for it: pip says `No matching distribution found for torch`",
            remedy=f"uv venv --python {_wanted(found)} {shlex.quote(_place(found))}",
            link="pytorch/pytorch#35873",
        )
    newest = [one.torch for one in RELEASES.values() if _name(found) in one.pythons]
    return ok(f"Python {_name(found)}: torch up to {newest[-1]}")


def _fault(found: Environment) -> str:
    """Return what of this Python no wheel of torch fits, "" where some do."""
    if found.implementation != "CPython":
        return f"this is {found.implementation}, and torch is for CPython alone"
    if found.bits != 64:  # noqa: PLR2004
        return f"this Python has {found.bits} bits, and torch is for 64 alone"
    if found.system == "Linux" and not found.libc.startswith("glibc"):
        return f"this Python is for {found.libc or 'musl'}, and torch is for glibc alone"
    table = list(RELEASES.values())
    if found.system == "Darwin" and found.machine in _INTEL:
        table = [one for one in table if numbers(one.torch) <= _LAST_INTEL_MAC]
    pythons = sorted({one for release in table for one in release.pythons}, key=numbers)
    if _name(found) in pythons:
        return ""
    return f"this is Python {_name(found)}, and torch has wheels for {pythons[0]} to {pythons[-1]}"


def _wanted(found: Environment) -> str:
    """Return the Python that the newest torch is most used with, for this machine."""
    if found.system == "Darwin" and found.machine in _INTEL:
        return "3.12"
    newest = list(RELEASES.values())[-1].pythons
    return newest[len(newest) // 2]


def _place(found: Environment) -> str:
    """Return where a new environment is made: beside the old one, which nobody asked to remove."""
    return f"{found.prefix}-{_wanted(found)}" if found.prefix != found.base_prefix else ".venv"


def _name(found: Environment) -> str:
    return ".".join(map(str, found.version[:2]))
