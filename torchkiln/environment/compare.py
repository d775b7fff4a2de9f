"""How an environment differs from its lock: distributions, their versions, their files.

Everything is read from outside: nothing of the environment is run.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import PathDistribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from torchkiln.companions import COMPANIONS, misfit
from torchkiln.environment.faults import InstalledFile, find_faults
from torchkiln.lockfile import digest
from torchkiln.store import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from importlib.metadata import PackagePath

    from torchkiln.environment.record import Environment, Pin, Record

# What an installer writes of its own, and what differs with where the environment lies.
_INSTALLERS: Final = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")


@dataclass(frozen=True, kw_only=True, order=True)
class Difference:
    """What is not as locked: the distribution or the file `name`, what is there, what should be."""

    name: str
    found: str
    locked: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs, and what is there beside the lock (name to version), which may be there.

    What is there beside the lock and fails beside its torch is a difference.
    """

    differences: tuple[Difference, ...]
    foreign: dict[str, str]
    files: int

    @property
    def names(self) -> list[str]:
        """Return what differs, each once, sorted."""
        return sorted({one.name for one in self.differences})


def installed(env: Environment, python: str) -> dict[str, list[PathDistribution]]:
    """Return the distributions by normalised name; one that was installed twice is there twice."""
    found: dict[str, list[PathDistribution]] = defaultdict(list)
    for one in distributions(path=[str(env.site(python))]):
        if isinstance(one, PathDistribution) and one.metadata["Name"]:
            found[canonicalize_name(one.metadata["Name"])].append(one)
    return dict(found)


def drop_unrecorded(env: Environment, python: str, names: Sequence[str]) -> None:
    """Remove the metadata of `names` without a RECORD, which no installer can replace."""
    there = installed(env, python)
    for one in (one for name in names for one in there.get(name, ())):
        folder = env.site(python) / str(getattr(one, "_path", "")).rpartition("/")[2]
        if folder.suffix == ".dist-info" and not (folder / "RECORD").is_file():
            remove_tree(folder)


def compare_versions(env: Environment, python: str, pins: Sequence[Pin]) -> list[Difference]:
    """Return where names and versions differ; takes milliseconds."""
    found = installed(env, python)
    return [one for pin in pins for one in _versions(pin, found.get(pin.name, []))]


def compare(
    env: Environment,
    record: Record,
    pins: Sequence[Pin],
    own: Mapping[Path, str],
    cuda: str | None,
) -> Comparison:
    """Compare the environment with `pins`, with what it was installed with, and its `own` files.

    `cuda` is that of the variant. Every file that a RECORD names is hashed, on all cores.
    """
    found = installed(env, record.python)
    wrong = compare_versions(env, record.python, pins)
    wrong += [*_gone(record, pins, found), *_own(own)]
    right = {pin.name for pin in pins} - {one.name for one in wrong}
    files = [
        _installed(name, file) for name in sorted(right) for file in found[name][0].files or ()
    ]
    faults = find_faults(files)
    for name in sorted(right):
        wrong += _files(name, found[name][0], faults.get(name, []), record.contents.get(name, ""))
    asked = {pin.name for pin in (*pins, *record.pins)}
    foreign = {name: every[0].version for name, every in found.items() if name not in asked}
    misfits = list(_misfits(env.site(record.python), pins, foreign, cuda))
    foreign = {name: foreign[name] for name in foreign.keys() - {one.name for one in misfits}}
    wrong += misfits
    return Comparison(
        differences=tuple(sorted(wrong)), foreign=dict(sorted(foreign.items())), files=len(files)
    )


def contents_digest(distribution: PathDistribution) -> str:
    """Return a digest of the files of a distribution by its RECORD.

    The same wheel gives the same one, whether pip or uv installed it and wherever it lies; another
    build of the same version gives another.
    """
    rows = [
        [str(file), file.hash.value]
        for file in distribution.files or ()
        if file.hash and file.name not in _INSTALLERS and not str(file).startswith("..")
    ]
    return digest(sorted(rows))


def _versions(pin: Pin, found: Sequence[PathDistribution]) -> Iterator[Difference]:
    if not found:
        yield Difference(name=pin.name, found="missing", locked=pin.version)
    elif len(found) > 1:
        versions = ", ".join(sorted(one.version for one in found))
        yield Difference(name=pin.name, found=f"twice: {versions}", locked=pin.version)
    elif not _same(found[0].version, pin.version):
        yield Difference(name=pin.name, found=found[0].version, locked=pin.version)


def _same(first: str, second: str) -> bool:
    try:
        return Version(first) == Version(second)
    except InvalidVersion:
        return first == second


def _gone(record: Record, pins: Sequence[Pin], found: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield what an earlier lock brought and this one does not have."""
    names = {pin.name for pin in pins}
    for pin in record.pins:
        if pin.name not in names and pin.name in found:
            yield Difference(name=pin.name, found=pin.version, locked="not in the lock any more")


def _misfits(
    site: Path, pins: Sequence[Pin], foreign: Mapping[str, str], cuda: str | None
) -> Iterator[Difference]:
    """Yield the companions beside the lock that are built for another torch than the locked one."""
    torch = next((pin.version for pin in pins if pin.name == "torch"), "")
    for name in sorted(foreign.keys() & set(COMPANIONS)):
        if why := misfit(name, foreign[name], site, torch, cuda):
            said, right = f"{foreign[name]}, built {why}", f"fails beside torch {torch}"
            yield Difference(name=name, found=said, locked=right)


def _own(own: Mapping[Path, str]) -> Iterator[Difference]:
    for path, text in own.items():
        if fault := _own_fault(path, text):
            yield Difference(name=path.name, found=fault, locked="Torchkiln's own file")


def _own_fault(path: Path, text: str) -> str:
    try:
        return "" if path.read_text(encoding="utf-8") == text else "changed"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except (OSError, UnicodeDecodeError):
        return "unreadable"


def _files(
    name: str,
    distribution: PathDistribution,
    faults: Sequence[str],
    contents: str,
) -> Iterator[Difference]:
    """Yield what is wrong with the files of a distribution whose version is right."""
    if not distribution.files:
        yield Difference(name=name, found="no RECORD", locked=distribution.version)
        return
    for said in faults:
        yield Difference(name=name, found=said, locked=distribution.version)
    if contents and contents_digest(distribution) != contents:
        said = f"another build of {distribution.version}"
        yield Difference(name=name, found=said, locked=distribution.version)


def _installed(name: str, file: PackagePath) -> InstalledFile:
    """Return a file of the distribution `name`; RECORD's hashes are base64url without padding."""
    told = file.hash if file.hash and file.hash.mode == "sha256" else None
    return InstalledFile(
        owner=name,
        name=str(file),
        path=Path(str(file.locate())),
        sha256=base64.urlsafe_b64decode(f"{told.value}=").hex() if told else "",
        size=file.size if told else None,
    )
