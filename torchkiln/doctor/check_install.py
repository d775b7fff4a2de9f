"""Whether torch lies there as it was installed: whole, by one installer, with what it requires."""

from __future__ import annotations

import csv
import re
import shlex
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.installer import install, reinstall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Environment, Installed
    from torchkiln.doctor.facts import Facts

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
    spec = f"{name}={version.partition('-')[0]}"
    python, prefix = shlex.quote(str(found.python)), shlex.quote(str(found.prefix))
    return problem(
        f"conda has {records[0]}, and {torch.installer} put torch {torch.version} over it",
        cause="both own the same files: each update of one breaks the other",
        remedy=(
            f"{python} -m pip uninstall --yes torch"
            f" && conda install --yes --prefix {prefix} --force-reinstall {spec}"
        ),
    )


@check("torch-files", area="environment", rank=60)
def files(facts: Facts) -> Outcome:
    """Compare torch's files with the list that its installer left."""
    found = facts.environment
    torch = found.find("torch") if found else None
    if found is None or torch is None or torch.metadata is None:
        return skipped("there is no torch")
    if found.conda and torch.installer in {"", "conda"}:
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


@check("leftovers", area="environment", rank=63)
def leftovers(facts: Facts) -> Outcome:
    """Look for what an interrupted pip leaves: folders whose names begin with a tilde."""
    found = facts.environment
    if found is None:
        return skipped("there is no Python that answers")
    left = sorted(path for folder in found.path for path in folder.glob("~*"))
    if not left:
        return ok("no installation was interrupted")
    words = " ".join(shlex.quote(str(one)) for one in left)
    return warning(
        f"{left[0].name} in {left[0].parent}",
        cause="an interrupted pip left it: pip warns of an invalid distribution, the disk fills",
        remedy=f"rm -r -- {words}",
    )


@check("cuda-wheels", area="environment", rank=61)
def cuda_wheels(facts: Facts) -> Outcome:
    """Compare NVIDIA's wheels with those that torch requires."""
    found = facts.environment
    torch = found.find("torch") if found else None
    if found is None or torch is None or found.conda or _is_elsewhere(found):
        return skipped("there is no torch of pip for Linux on x86_64")
    pins = [one for one in torch.requires if one.startswith("nvidia-") and "==" in one]
    wrong = [one for one in pins if not _has(found, one)]
    if not wrong:
        return ok(f"{len(pins)} wheels of NVIDIA are as torch requires them")
    name = wrong[0].partition("==")[0]
    there = found.find(name)
    return problem(
        f"torch requires {wrong[0]}, and {f'{there.version} is' if there else 'none is'} there",
        cause="torch loads CUDA's libraries from these wheels, of these versions alone",
        remedy=install(found, facts.subject.environ, "--no-deps", *wrong),
        link="pytorch/pytorch#101314",
    )


def _is_elsewhere(found: Environment) -> bool:
    return (found.system, found.machine) != ("Linux", "x86_64")


def _has(found: Environment, pin: str) -> bool:
    name, _, version = pin.partition("==")
    there = found.find(name)
    return there is not None and there.version == version
