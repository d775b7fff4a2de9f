"""Whether torch lies there as it was installed: whole, by one installer, with what it requires."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, problem, skipped
from torchkiln.doctor.installer import conda, install, reinstall, uninstall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Environment, Installed
    from torchkiln.doctor.facts import Facts
    from torchkiln.doctor.requirements import Requirement

_LIBRARIES: Final = ("nvidia-", "cuda-", "triton", "pytorch-triton")
_CONDA_NAMES: Final = ("pytorch", "pytorch-cpu", "pytorch-gpu", "libtorch")


@check("pip-over-conda", area="environment", rank=42)
def pip_over_conda(facts: Facts) -> Outcome:
    """Look for a torch of pip over one of conda."""
    found = facts.environment
    torch = found.find("torch") if found else None
    if found is None or torch is None or not found.conda:
        return skipped("there is no torch in a conda prefix")
    records = sorted(
        path.stem
        for name in _CONDA_NAMES
        for path in (found.prefix / "conda-meta").glob(f"{name}-[0-9]*.json")
    )
    if not records or torch.installer in {"", "conda"}:
        return ok(f"torch {torch.version} by {torch.installer or 'conda'} alone")
    name, version = re.split(r"-(?=\d)", records[0], maxsplit=1)
    words = ("--force-reinstall", f"{name}={version.partition('-')[0]}")
    environ = facts.subject.environ
    return problem(
        f"conda has {records[0]}, and {torch.installer} put torch {torch.version} over it",
        cause="both own the same files: each update of one breaks the other",
        remedy=f"{uninstall(found, environ, 'torch')} && {conda(found, environ, *words)}",
    )


@check("torch-files", area="environment", rank=60)
def files(facts: Facts) -> Outcome:
    """Compare torch's files with the list that its installer left."""
    found = facts.environment
    torch = found.find("torch") if found else None
    if found is None or torch is None or torch.metadata is None:
        return skipped("there is no torch")
    if found.by_conda(torch):
        return skipped("conda writes its prefix into files, so that they have other sizes")
    wrong = list(_wrong(torch))
    if not wrong:
        return ok("no file of torch is missing or has another size")
    return problem(
        f"{len(wrong)} files of torch are missing or have another size, like {wrong[0]}",
        cause="an installation was interrupted, the disk was full, or something removed them",
        remedy=reinstall(found, facts.subject.environ, "torch"),
        link="pytorch/pytorch#4827",
    )


def _wrong(one: Installed) -> Iterator[str]:
    try:
        lines = ((one.metadata or one.folder) / "RECORD").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for name, _, size in (row for row in csv.reader(lines) if len(row) == 3):  # noqa: PLR2004
        path = one.folder / name
        try:
            there = path.stat().st_size
        except OSError:
            there = -1
        if there < 0 and name.endswith(".pyc"):
            continue
        if there < 0 or (size and not name.endswith(".pyc") and there != int(size)):
            yield name


@check("cuda-wheels", area="environment", rank=61)
def cuda_wheels(facts: Facts) -> Outcome:
    """Compare what has CUDA's libraries and Triton with what torch requires of them."""
    found = facts.environment
    torch = found.find("torch") if found else None
    if found is None or torch is None or found.by_conda(torch):
        return skipped("there is no torch of pip")
    wanted = list(_libraries(found, torch))
    wrong = [one for one in wanted if not _has(found, one)]
    if not wrong:
        return ok(f"{len(wanted)} packages are as torch requires them")
    there = found.find(wrong[0].name)
    alone = not any(one.extras for one in wrong)
    return problem(
        f"torch requires {wrong[0]}, and {f'{there.version} is' if there else 'none is'} there",
        cause="torch loads CUDA's libraries from these packages, of these versions alone",
        remedy=install(found, facts.subject.environ, *map(str, wrong), alone=alone),
        link="pytorch/pytorch#101314",
    )


def _libraries(
    found: Environment, one: Installed, extras: tuple[str, ...] = ()
) -> Iterator[Requirement]:
    """Yield what `one` requires of NVIDIA and Triton here, with what that requires by extras."""
    for wanted in found.required(one, extras):
        if not wanted.name.startswith(_LIBRARIES):
            continue
        yield wanted
        there = found.find(wanted.name)
        if there and wanted.extras:
            yield from _libraries(found, there, wanted.extras)


def _has(found: Environment, wanted: Requirement) -> bool:
    there = found.find(wanted.name)
    return there is not None and not wanted.pins_other(there.version)
