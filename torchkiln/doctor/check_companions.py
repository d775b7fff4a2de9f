"""What goes with torch: its companions and NumPy, each of the right release and build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torchkiln.companions import COMPANIONS, misfit, requirement
from torchkiln.doctor import builds
from torchkiln.doctor.checks import check, ok, problem, skipped
from torchkiln.doctor.installer import install, page_of, uninstall
from torchkiln.releases import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Environment, Installed
    from torchkiln.doctor.facts import Facts

_NUMPY_2_FROM: Final = (2, 3)
"""The first torch that was built against NumPy 2 (pytorch/pytorch issue 107302)."""


@check("companions", area="environment", rank=54)
def companions(facts: Facts) -> Outcome:
    """Compare torchvision, torchaudio, TorchCodec, torchtext with the torch they were built for."""
    found, build = facts.environment, builds.installed_build(facts)
    torch = found.find("torch") if found else None
    if found is None or build is None or torch is None:
        return skipped("there is no torch")
    there = [one for one in map(found.find, COMPANIONS) if one]
    if not there:
        return skipped("there is none of torch's companions")
    wrong = {
        one.name: f"{one.name} {one.version} (built {why})"
        for one in there
        if not found.by_conda(torch)
        and not found.by_conda(one)
        and (why := misfit(one.name, one.version, one.folder, torch.version, build.cuda))
    }
    if not wrong:
        return ok(", ".join(f"{one.name} {one.version}" for one in there))
    return problem(
        f"{' and '.join(wrong.values())} beside torch {torch.version}",
        cause="each links to one build of torch, and beside another it fails at import:"
        " `operator torchvision::nms does not exist`, `Could not load this library`",
        remedy=_remedy(facts, found, torch, build.cuda, list(wrong)),
        link="pytorch/pytorch#157648",
    )


def _remedy(
    facts: Facts, found: Environment, torch: Installed, cuda: str, names: Sequence[str]
) -> str:
    """Return the command that installs what fits, and removes what no release fits for."""
    environ = facts.subject.environ
    wanted = {name: requirement(name, torch.version, cuda) for name in names}
    right = [one for one in wanted.values() if one]
    page = page_of(torch.version)
    commands = []
    if right:  # again: `==0.28.0` is content with a `0.28.0+cpu` that is there
        commands = [install(found, environ, *right, page=page, alone=True, again=True)]
    commands += [uninstall(found, environ, name) for name, one in wanted.items() if not one]
    return " && ".join(commands)


@check("numpy-abi", area="environment", rank=56)
def numpy_abi(facts: Facts) -> Outcome:
    """Compare NumPy with the one that torch was built against."""
    found = facts.environment
    torch, numpy = _pair(found)
    if found is None or torch is None or numpy is None:
        return skipped("torch and NumPy are not both there")
    if numbers(torch.version) >= _NUMPY_2_FROM or numbers(numpy.version) < (2,):
        return ok(f"torch {torch.version} with NumPy {numpy.version}")
    return problem(
        f"NumPy {numpy.version} beside torch {torch.version}",
        cause="torch before 2.3 was built against NumPy 1: `Tensor.numpy()` and data loaders fail",
        remedy=install(found, facts.subject.environ, "numpy<2"),
        link="pytorch/pytorch#135013",
    )


def _pair(found: Environment | None) -> tuple[Installed | None, Installed | None]:
    return (found.find("torch"), found.find("numpy")) if found else (None, None)
