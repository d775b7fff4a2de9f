"""What interrupted installations leave: folders out of the way, and a version beside another."""

from __future__ import annotations

import shlex
from collections import defaultdict
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.installer import install, pin, uninstall
from torchkiln.doctor.requirements import normalised

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Environment, Installed
    from torchkiln.doctor.facts import Facts

_NAMES: Final = ("torch", "torchvision", "torchaudio", "numpy", "triton", "nvidia-")


@check("leftovers", area="environment", rank=39)
def leftovers(facts: Facts) -> Outcome:
    """Look for what an interrupted pip leaves: folders whose names begin with a tilde."""
    found = facts.environment
    if found is None:
        return skipped("there is no Python that answers")
    left = sorted(path for folder in found.path for path in folder.glob("~*"))
    if not left:
        return ok("no installation was interrupted")
    remove = _remove(left)
    gone = {name: version for name, version in _packages(left) if found.find(name) is None}
    if gone:
        return problem(
            f"{', '.join(gone)} is no longer there, and {left[0].name} in {left[0].parent} is",
            cause="pip was interrupted between taking the old away and putting the new in place",
            remedy=f"{remove} && {_install(found, facts.subject.environ, gone.items())}",
        )
    return warning(
        f"{left[0].name} in {left[0].parent}",
        cause="an interrupted pip left it: pip warns of an invalid distribution, the disk fills",
        remedy=remove,
    )


def _packages(left: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield name and version of each package whose metadata was put out of the way."""
    for folder in left:
        try:
            text = (folder / "METADATA").read_text(encoding="utf-8")
        except OSError:
            continue
        fields = HeaderParser().parsestr(text)
        name = normalised(fields.get("Name", ""))
        if name.startswith(_NAMES):
            yield name, fields.get("Version", "")


@check("versions", area="environment", rank=38)
def versions(facts: Facts) -> Outcome:
    """Look for a package of which one folder has two versions."""
    found = facts.environment
    if found is None or found.conda:
        return skipped("there is no Python that answers, or conda knows what is there")
    twice = list(_twice(found))
    if not twice:
        return ok("each package is there once")
    newest, *older = twice[0]
    wanted = [(first.name, first.version) for first, *_ in twice]
    environ = facts.subject.environ
    return problem(
        f"{newest.name} {newest.version} and {older[0].version} are both in {newest.folder}",
        cause="an installation was interrupted: files are of both, and pip sees either",
        remedy=" && ".join(
            [
                *(step for every in twice for step in _take_away(found, environ, every)),
                _install(found, environ, wanted),
            ]
        ),
    )


def _twice(found: Environment) -> Iterator[list[Installed]]:
    """Yield the versions of each package that one folder has several of, the newest first."""
    places: defaultdict[tuple[str, Path], dict[Path, Installed]] = defaultdict(dict)
    for one in found.installed:
        if one.metadata and one.name.startswith(_NAMES):
            places[one.name, one.folder][one.metadata] = one
    for same in places.values():
        if len(same) > 1:
            newest_first = sorted(same, key=lambda path: path.stat().st_mtime, reverse=True)
            yield [same[path] for path in newest_first]


def _take_away(
    found: Environment, environ: Mapping[str, str], every: Sequence[Installed]
) -> Iterator[str]:
    """Yield the commands that remove all versions of a package, with their files.

    pip takes away one at a time, and none that has lost its RECORD.
    """
    folders = [one.metadata for one in every if one.metadata]
    lost = [one for one in folders if not (one / "RECORD").exists()]
    if lost:
        yield _remove(lost)
    for one in every[len(lost) :]:
        yield uninstall(found, environ, one.name)


def _install(
    found: Environment, environ: Mapping[str, str], packages: Iterable[tuple[str, str]]
) -> str:
    """Return the command that installs these versions, from the index that has torch's build."""
    pins = [pin(*one) for one in packages]
    page = next((page for _, page in pins if page), "")
    return install(found, environ, *(wanted for wanted, _ in pins), page=page, alone=True)


def _remove(paths: Iterable[Path]) -> str:
    return f"rm -r -- {' '.join(shlex.quote(str(one)) for one in paths)}"
