"""Choose the packages of the base: what Debian marks essential or required, apt, and what is asked.

A dependency is met by a package that is already chosen, else by its first alternative that can be
had. Dependencies without a choice come first, so that the outcome depends on the index and the
request, and on no order of reading. Recommends are left out.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from debian.deb822 import PkgRelation
from debian.debian_support import Version

from torchkiln.digests import parse_sha256
from torchkiln.errors import LockError
from torchkiln.lockfile import LockedDeb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torchkiln.debian import Index, Package


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A package that a Depends, Conflicts or Provides names, with bounds on its version."""

    name: str
    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name

    def admits(self, version: Version) -> bool:
        """Tell whether `version` is within the bounds."""
        return not self.operator or _COMPARE[self.operator](version, Version(self.version))


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """What `owner` needs, as its field says it, and the packages that would do, best first."""

    owner: str
    text: str
    candidates: tuple[Package, ...]


def lock_debs(index: Index, architecture: str, names: Iterable[str]) -> tuple[LockedDeb, ...]:
    """Return the packages of a base with `names` in it, sorted by name.

    Raise `LockError` for unknown names, for a dependency that nothing meets, and for two packages
    that cannot be installed together.
    """
    wanted = (*ALWAYS, *names)
    _refuse_unknown(index, wanted)
    base = (package.name for package in index.packages.values() if _is_base(package))
    selection = _Selection(index.packages, architecture)
    for name in sorted({*base, *wanted}):
        selection.add(index.packages[name])
    selection.close()
    selection.refuse_conflicts()
    return tuple(_locked(package) for _, package in sorted(selection.chosen.items()))


def _is_base(package: Package) -> bool:
    return package.says("Essential: yes") or package.says("Priority: required")


def _refuse_unknown(index: Index, names: Iterable[str]) -> None:
    unknown = [name for name in names if name not in index.packages]
    if not unknown:
        return
    what = f"Debian has no package: {', '.join(f'`{name}`' for name in unknown)}"
    near = {name: difflib.get_close_matches(name, index.packages, n=1) for name in unknown}
    guesses = [f"`{name}` is near to `{found[0]}`" for name, found in near.items() if found]
    raise LockError(what, "\n".join(guesses), "correct `base.packages` of `images/variants.yaml`")


def _locked(package: Package) -> LockedDeb:
    try:
        return LockedDeb(
            name=package.name,
            version=str(package.version),
            architecture=package.field("Architecture"),
            archive=package.archive,
            filename=package.field("Filename"),
            size=int(package.field("Size")),
            sha256=parse_sha256(package.field("SHA256")),
        )
    except ValueError as error:
        what = f"Debian's index describes a package badly: {package.name}"
        raise LockError(what, str(error)) from None


@dataclass
class _Selection:
    """The packages chosen so far by name, and their dependencies that may still be unmet."""

    packages: Mapping[str, Package]
    architecture: str
    chosen: dict[str, Package] = field(default_factory=dict)
    pending: list[Dependency] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.providers: dict[str, list[Package]] = defaultdict(list)
        for package in self.packages.values():
            for provides in _PROVIDES.findall(package.stanza):
                for name in _PROVIDED_NAME.findall(provides):
                    self.providers[name].append(package)

    def add(self, package: Package) -> None:
        """Choose a package and note what it needs."""
        self.chosen[package.name] = package
        for name in ("Pre-Depends", "Depends"):
            for alternatives in self._relations(package, name):
                text = " | ".join(str(relation) for relation in alternatives)
                found = [match for relation in alternatives for match in self._matches(relation)]
                if not found:
                    what = f"the Debian package `{package.name}` cannot be installed"
                    raise LockError(what, f"nothing in the release meets its dependency: {text}")
                self.pending.append(
                    Dependency(owner=package.name, text=text, candidates=tuple(found))
                )

    def close(self) -> None:
        """Choose until every dependency is met."""
        while pending := [need for need in self.pending if not self._is_met(need)]:
            self.pending = pending
            need = min(pending, key=lambda need: (len(need.candidates) > 1, need.owner, need.text))
            self.add(need.candidates[0])

    def refuse_conflicts(self) -> None:
        """Raise `LockError` where a chosen package conflicts with or breaks another."""
        for package in self.chosen.values():
            for name in ("Conflicts", "Breaks"):
                for (relation,) in self._relations(package, name):
                    for other in self._matches(relation):
                        # A package may conflict with what it provides itself (Policy 7.6.2).
                        if other.name in self.chosen and other is not package:
                            what = f"`{package.name}` and `{other.name}` exclude each other"
                            raise LockError(what, f"{name} of `{package.name}`: {relation}")

    def _is_met(self, need: Dependency) -> bool:
        return any(package.name in self.chosen for package in need.candidates)

    def _matches(self, relation: Relation) -> list[Package]:
        """Return the package of that name, then those that provide it, by priority and name."""
        real = self.packages.get(relation.name)
        found = [real] if real is not None and relation.admits(real.version) else []
        providers = (
            package
            for package in self.providers.get(relation.name, ())
            if package is not real and self._provides(package, relation)
        )
        return found + sorted(providers, key=_preference)

    def _provides(self, package: Package, relation: Relation) -> bool:
        # A Provides without version meets no relation with one (Policy 7.5).
        return any(
            provided.name == relation.name
            and (not relation.operator or _admits_provided(relation, provided))
            for (provided,) in self._relations(package, "Provides")
        )

    def _relations(self, package: Package, name: str) -> list[list[Relation]]:
        """Return a relationship field as a list of alternatives, for this architecture."""
        text = package.field(name)
        if not text:
            return []
        here = (None, "any", self.architecture)  # `:i386` names a package of another one
        parsed = (
            [_relation(entry) for entry in alternatives if entry["archqual"] in here]
            for alternatives in PkgRelation.parse_relations(text)
        )
        return [alternatives for alternatives in parsed if alternatives]


def _relation(parsed: PkgRelation.ParsedRelation) -> Relation:
    operator, version = parsed["version"] or ("", "")
    return Relation(name=parsed["name"], operator=operator, version=version)


def _admits_provided(relation: Relation, provided: Relation) -> bool:
    return provided.operator == "=" and relation.admits(Version(provided.version))


def _preference(package: Package) -> tuple[int, str]:
    return _PRIORITIES.index(package.field("Priority")), package.name


# The base is unpacked with a merged /usr. Debian's init-system-helpers asks for that by
# `usrmerge | usr-is-merged`, whose first is a converter for old systems that brings all of Perl.
ALWAYS: Final = ("apt", "usr-is-merged")
_COMPARE: Final = {
    "<<": Version.__lt__,
    "<=": Version.__le__,
    "=": Version.__eq__,
    ">=": Version.__ge__,
    ">>": Version.__gt__,
}
_PRIORITIES: Final = ("required", "important", "standard", "optional", "extra")
_PROVIDES: Final = re.compile(r"^Provides: (.*)$", re.MULTILINE)
_PROVIDED_NAME: Final = re.compile(r"(?:^|, )([a-z0-9][a-z0-9+.-]+)")
