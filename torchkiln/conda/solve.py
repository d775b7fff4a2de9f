"""Solve a variant's conda environment; say what was corrected, or why there is no solution.

torch, Python and CUDA are what was asked for, or it is an error. A companion whose locked version
comes from the package index may not be on the channel: the newest that the catalog allows and that
is no newer than the locked one takes its place, and the solution says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchkiln.conda import rattler
from torchkiln.conda.rattler import Package, UnsolvableError
from torchkiln.errors import CondaError
from torchkiln.reports import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torchkiln.catalog import Variant
    from torchkiln.conda.channels import Channel
    from torchkiln.conda.spec import Companion, CondaSpec


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A companion that is another version than the locked one."""

    name: str
    asked: str
    got: str
    because: str

    def __str__(self) -> str:
        """Return it as a sentence."""
        return f"{self.name} is {self.got}, not {self.asked}: {self.because}"


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The packages of an environment, dependencies first, and what was corrected."""

    packages: tuple[Package, ...]
    corrections: tuple[Correction, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be solved, with what: `virtual` are the virtual packages, `13.0=0` by name."""

    variant: Variant
    spec: CondaSpec
    channels: tuple[Channel, ...]
    virtual: Mapping[str, str]
    cache: Path


def solve(problem: Problem) -> Solution:
    """Return the packages of the environment; no solution raises `CondaError`, which says why."""
    companions = problem.spec.companions
    lacking = [one for one in companions if one.relaxable and not _candidates(problem, str(one))]
    attempts: list[Sequence[Companion]] = [()] if not lacking else []
    attempts += [lacking, [one for one in companions if one.relaxable]]
    for relaxed in attempts:
        try:
            packages = _attempt(problem, relaxed)
        except UnsolvableError as error:
            failure = error
            continue
        solution = Solution(
            packages=packages, corrections=tuple(_corrections(companions, packages, lacking))
        )
        check_build(problem.variant, solution.packages)
        check_hashes(solution.packages)
        return solution
    raise _explained(problem, str(failure))


def check_build(variant: Variant, packages: Sequence[Package]) -> None:
    """Raise `CondaError` unless torch is built for what the variant is for, by its build string."""
    for package in packages:
        if package.name == "pytorch" and ("cuda" in package.build) != bool(variant.cuda):
            wanted = f"CUDA {variant.cuda}" if variant.cuda else "the CPU"
            what = f"the solver took a build of torch that is not for {wanted}: {package}"
            why = "a solver that is told of no driver (`__cuda`) takes the CPU build, if it may"
            raise CondaError(what, why, f"./kiln lock --conda {variant.flag}")


def check_hashes(packages: Sequence[Package]) -> None:
    """Raise `CondaError` for packages whose sha256 the channel's index does not tell: all of them.

    py-rattler takes such a package from a server without looking at it.
    """
    lacking = [str(one) for one in packages if not one.sha256]
    if lacking:
        what = f"the channel's index tells no sha256 of: {', '.join(lacking)}"
        hint = "ask another mirror: export CONDA_CHANNEL_ALIAS=<the URL above its channels>"
        raise CondaError(what, "what was fetched could not be checked", hint)


def table_of(corrections: Sequence[Correction]) -> list[str]:
    """Return the lines of a table of what was asked for and what came instead."""
    rows = [(one.name, one.asked, one.got, one.because) for one in corrections]
    return table(("package", "asked", "got", "because"), rows)


def _attempt(problem: Problem, relaxed: Sequence[Companion]) -> tuple[Package, ...]:
    specs = [
        _relaxed(problem, one) if one in relaxed else str(one) for one in problem.spec.companions
    ]
    return rattler.solve(
        problem.channels, [*problem.spec.core, *specs], problem.virtual, problem.cache
    )


def _relaxed(problem: Problem, companion: Companion) -> str:
    """Return what may take a companion's place: nothing newer, where there is anything older."""
    older = ",".join(filter(None, [companion.allowed, f"<={companion.version}"]))
    if _candidates(problem, f"{companion.name} {older}"):
        return f"{companion.name} {older}"
    return f"{companion.name} {companion.allowed}".strip()


def _candidates(problem: Problem, spec: str) -> tuple[Package, ...]:
    return rattler.candidates(problem.channels, spec, problem.cache)


def _corrections(
    companions: Sequence[Companion], packages: Sequence[Package], lacking: Sequence[Companion]
) -> Iterator[Correction]:
    versions = {package.name: package.version for package in packages}
    for one in companions:
        if not rattler.fits(str(one), one.name, versions[one.name]):
            yield Correction(
                name=one.name,
                asked=one.version,
                got=versions[one.name],
                because="no channel has it" if one in lacking else "it does not go with the rest",
            )


def _explained(problem: Problem, tree: str) -> CondaError:
    """Return the error for an environment that has no solution: which spec, why, what to change."""
    variant = problem.variant
    what = f"the conda environment of `{variant.id}` has no solution"
    for spec in problem.spec.core:
        if not _candidates(problem, spec):
            return CondaError(what, "\n".join(_absent(problem, spec)), _other_torch(variant))
    if "__cuda" in tree:
        return CondaError(what, tree, _driver(problem))
    for one in problem.spec.companions:
        if not one.relaxable and not _candidates(problem, str(one)):
            lines = [*_absent(problem, str(one)), f"the catalog asks for `{one.allowed}`"]
            hint = f"name another `{one.name}` in `variants.{variant.id}` of `images/variants.yaml`"
            return CondaError(what, "\n".join(lines), hint)
    return CondaError(what, tree, f"change `variants.{variant.id}` in `images/variants.yaml`")


def _absent(problem: Problem, spec: str) -> Iterator[str]:
    """Yield that no channel has what `spec` says, and what there is of it instead."""
    name, _, version = spec.partition("=")
    yield f"no channel has `{spec}`"
    near = _candidates(problem, f"{name}={version.partition('=')[0]}")
    for kind, found in (("of this version", near), ("", _candidates(problem, name))):
        if found:
            shown = dict.fromkeys(f"{one.version} {one.build}" for one in found)
            yield " ".join(filter(None, ["there is", kind])) + f": {', '.join([*shown][:6])}"
            return
    yield f"there is no `{name}` at all in: {', '.join(one.name for one in problem.channels)}"


def _other_torch(variant: Variant) -> str:
    return (
        f"name a torch that is there in `variants.{variant.id}` of `images/variants.yaml`,"
        f" or take the wheels: pip install -r envs/{variant.id}/requirements.txt"
    )


def _driver(problem: Problem) -> str:
    needed = problem.spec.needs_driver
    if "__cuda" not in problem.virtual:
        return (
            "the solver was told of no driver: say which CUDA that of the target has:"
            f" export CONDA_OVERRIDE_CUDA={needed}"
        )
    told = problem.virtual["__cuda"].partition("=")[0]
    return (
        f"the solver was told of a driver for CUDA {told}, which is what `{problem.variant.id}`"
        " is for: take the wheels instead:"
        f" pip install -r envs/{problem.variant.id}/requirements.txt"
    )
