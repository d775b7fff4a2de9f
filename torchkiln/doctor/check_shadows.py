"""Packages that come from elsewhere than the environment: the user site, PYTHONPATH."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, problem, skipped

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Environment, Installed
    from torchkiln.doctor.facts import Facts

_NAMES: Final = ("torch", "torchvision", "torchaudio", "numpy")


@check("user-site", area="environment", rank=40)
def user_site(facts: Facts) -> Outcome:
    """Look for packages in the user site that hide those of the environment."""
    found = facts.environment
    if found is None or not found.user_site_on:
        return skipped("the user site is not in use")
    hidden = _hidden(found, [found.user_site])
    if not hidden:
        return ok("nothing in the user site hides what the environment has")
    return problem(
        _told(hidden),
        cause="`pip install --user` put it there; it is imported before the environment's own",
        remedy="export PYTHONNOUSERSITE=1",
        link="pytorch/pytorch#100974",
    )


@check("pythonpath", area="environment", rank=41)
def pythonpath(facts: Facts) -> Outcome:
    """Look for packages on PYTHONPATH that hide those of the environment."""
    found = facts.environment
    text = facts.subject.environ.get("PYTHONPATH", "")
    if found is None or not text:
        return skipped("PYTHONPATH is not set")
    hidden = _hidden(found, [Path(one) for one in text.split(os.pathsep) if one])
    if not hidden:
        return ok("nothing on PYTHONPATH hides what the environment has")
    return problem(
        _told(hidden),
        cause="PYTHONPATH names its folder; it is imported before the environment's own",
        remedy="unset PYTHONPATH",
    )


def _hidden(found: Environment, folders: list[Path]) -> list[tuple[Installed, Installed]]:
    """Return (what is imported from `folders`, what the environment has of the same name)."""
    pairs = []
    for name in _NAMES:
        both = [one for one in found.installed if one.name == name]
        if both[1:] and both[0].folder in folders:
            pairs.append((both[0], both[1]))
    return pairs


def _told(hidden: list[tuple[Installed, Installed]]) -> str:
    first, second = hidden[0]
    return f"{first.name} {first.version} in {first.folder} hides {second.version}"
