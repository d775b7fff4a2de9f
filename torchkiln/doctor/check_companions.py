"""What goes with torch: torchvision, torchaudio and NumPy, each of the right release and build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torchkiln.doctor import builds
from torchkiln.doctor.checks import check, ok, problem, skipped
from torchkiln.doctor.installer import install, page_of
from torchkiln.releases import RELEASES, numbers

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Environment, Installed
    from torchkiln.doctor.facts import Facts

_AUDIO_PAIRS_BEFORE: Final = (2, 11)
"""torchaudio 2.11 goes with that torch and any later one (pytorch/audio issue 4212)."""

_NUMPY_2_FROM: Final = (2, 3)
"""The first torch that was built against NumPy 2 (pytorch/pytorch issue 107302)."""


@check("companions", area="environment", rank=54)
def companions(facts: Facts) -> Outcome:
    """Compare torchvision and torchaudio with the torch that they were built for."""
    found = facts.environment
    torch = found.find("torch") if found else None
    if found is None or torch is None:
        return skipped("there is no torch")
    there = [one for one in map(found.find, ("torchvision", "torchaudio")) if one]
    wrong = {one.name: right for one in there if (right := _right(facts, torch, one))}
    if not there:
        return skipped("there is neither torchvision nor torchaudio")
    if not wrong:
        return ok(", ".join(f"{one.name} {one.version}" for one in there))
    shown = " and ".join(f"{one.name} {one.version}" for one in there if one.name in wrong)
    pins = [f"{name}=={version}" for name, version in wrong.items()]
    return problem(
        f"{shown} beside torch {torch.version}",
        cause="each is built for one torch: with another, `torchvision::nms does not exist`",
        remedy=install(
            found, facts.subject.environ, *pins, page=page_of(torch.version), alone=True
        ),
        link="pytorch/pytorch#157648",
    )


def _right(facts: Facts, torch: Installed, one: Installed) -> str:
    """Return the version that goes with `torch`, "" where `one` does or nothing is known."""
    release = RELEASES.get(torch.version.partition("+")[0])
    found = facts.environment
    if release is None or (found and (found.by_conda(torch) or found.by_conda(one))):
        return ""
    audio = one.name == "torchaudio"
    if audio and numbers(torch.version) >= _AUDIO_PAIRS_BEFORE:
        return ""
    wanted = release.torchaudio if audio else release.torchvision
    local = torch.version.partition("+")[2]
    same = one.version.partition("+")[0] == wanted
    if same and _build(facts, torch, release.default_cuda) == _build(
        facts, one, release.default_cuda
    ):
        return ""
    return f"{wanted}+{local}" if local else wanted


def _build(facts: Facts, one: Installed, default: str) -> str:
    """Return `cpu` or `cu130`: what the version says, else what the default index has."""
    local = one.version.partition("+")[2]
    if local:
        return local
    build = builds.installed_build(facts)
    if one.name == "torch" and build:
        return f"cu{build.cuda.replace('.', '')}" if build.cuda else "cpu"
    found = facts.environment
    linux = found is not None and found.system == "Linux" and found.machine == "x86_64"
    return f"cu{default.replace('.', '')}" if linux else "cpu"


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
