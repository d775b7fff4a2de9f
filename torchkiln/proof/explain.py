"""Why a package is in an image: the ways that lead to it, read from the image's SBOM alone."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from packaging.utils import canonicalize_name

from torchkiln.deb import merge_usr
from torchkiln.errors import ArchiveError, CatalogError, did_you_mean
from torchkiln.layer_rules import source_of
from torchkiln.proof.sbom import PROPERTY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_CHAINS: Final = 5
_MAX_OWNERS: Final = 5  # of a folder: more explain nothing
_SUFFIXES: Final = ("", ".py", ".so")


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package and why it is there.

    `chains` lead from what is asked for to it, the shortest first, at most one for each package
    that needs it and five in all; `asked` says who asks for the first of each, by name. `size` and
    `unpacked` are bytes, None for what lies inside another package.
    """

    name: str
    version: str
    purl: str
    licence: str
    sha256: str
    layer: str
    size: int | None
    unpacked: int | None
    asked: dict[str, list[str]]
    chains: list[list[str]]
    needed_by: list[str]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What `name` stands for in the image: mostly one package, more where names are shared."""

    name: str
    packages: tuple[Package, ...]


def explain(sbom: Mapping[str, Any], name: str) -> Explanation:
    """Return why the image of this SBOM holds `name`.

    That is a package, an import (`PIL`), a command (`perl`) or an absolute path. One that the image
    does not hold raises `CatalogError` with the nearest name; an SBOM that another tool made, which
    does not say enough, `ArchiveError`.
    """
    graph = _graph(sbom)
    refs = graph.find(name)
    if not refs:
        what = f"the image holds no package, import, command or file `{name}`"
        known = graph.paths() if name.startswith("/") else graph.names()
        raise CatalogError(what + did_you_mean(name, known))
    if len(refs) > _MAX_OWNERS:
        what = f"{len(refs)} packages of the image share `{name}`"
        owners = sorted(graph.components[ref]["name"] for ref in refs)
        raise CatalogError(what, ", ".join(owners), hint="ask for one of them, or for a file")
    return Explanation(name=name, packages=tuple(graph.package(ref) for ref in refs))


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return what `explain --json` prints."""
    return asdict(explanation)


def _graph(sbom: Mapping[str, Any]) -> _Graph:
    try:
        return _Graph(sbom)
    except (AttributeError, KeyError, TypeError) as error:
        what = "this is no SBOM that Torchkiln made"
        raise ArchiveError(what, f"it lacks {error}") from error


@dataclass
class _Graph:
    """The components of an SBOM by their refs, and who needs whom."""

    sbom: Mapping[str, Any]
    components: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    needs: dict[str, list[str]] = field(default_factory=dict)
    needed_by: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.root = self.sbom["metadata"]["component"]
        self.needs = {row["ref"]: list(row["dependsOn"]) for row in self.sbom["dependencies"]}
        for component in (one for one in self.sbom["components"] if "purl" in one):
            self.components[component["bom-ref"]] = component
            for inner in component.get("components", ()):
                self.components[inner["bom-ref"]] = inner
                self.owners[inner["bom-ref"]] = component["bom-ref"]
        for ref, owner in self.owners.items():
            self.needs.setdefault(owner, []).append(ref)
        for owner, refs in self.needs.items():
            for ref in refs:
                self.needed_by[ref].append(owner)
        self.places = [
            (one["location"], ref)
            for ref, component in self.components.items()
            for one in component["evidence"]["occurrences"]
        ]

    def names(self) -> list[str]:
        """Return what can be asked for by a short name."""
        imports = (PurePosixPath(path).stem for path in self.paths())
        return sorted({*(one["name"] for one in self.components.values()), *imports})

    def paths(self) -> list[str]:
        """Return the files and folders that are a component's own."""
        return [path for path, _ in self.places]

    def find(self, name: str) -> list[str]:
        """Return the refs of what `name` stands for: packages first, then imports and commands."""
        if name.startswith("/"):
            return self._at(name)
        exact = {name, canonicalize_name(name)}
        named = [ref for ref, one in self.components.items() if one["name"] in exact]
        if named:
            return named
        path = name.replace(".", "/")
        for folder in _values(self.root, "search"):
            for place in (f"{folder}/{one}{end}" for one in (path, name) for end in _SUFFIXES):
                if refs := self._at(place):
                    return refs
        return []

    def _at(self, path: str) -> list[str]:
        """Return who has the file or folder: of several the one with the longest place.

        Where no place holds it, those that have something in it.
        """
        path = merge_usr(path.strip("/"))
        path = f"/{source_of(path) if path.endswith('.pyc') else path}"
        found = [(place, ref) for place, ref in self.places if _within(path, place)]
        longest = max((len(place) for place, _ in found), default=0)
        exact = [ref for place, ref in found if len(place) == longest]
        return exact or list({ref: None for place, ref in self.places if _within(place, path)})

    def package(self, ref: str) -> Package:
        """Return what is known of a component, and why it is there."""
        component = self.components[ref]
        holder = self.components[self.owners.get(ref, ref)]
        chains = self._chains(ref)
        firsts = {chain[0] for chain in chains}
        needed_by = [one for one in self.needed_by[ref] if one in self.components]
        return Package(
            name=component["name"],
            version=component["version"],
            purl=component["purl"],
            licence=", ".join(_licences(component)),
            sha256=component.get("hashes", [{"content": ""}])[0]["content"],
            layer=", ".join(_values(holder, "layer")),
            size=_number(component, "size"),
            unpacked=_number(component, "unpacked"),
            asked={
                self.components[one]["name"]: _values(self.components[one], "asked")
                for one in sorted(firsts)
            },
            chains=[[self.components[one]["name"] for one in chain] for chain in chains],
            needed_by=sorted(self.components[one]["name"] for one in needed_by),
        )

    def _chains(self, ref: str) -> list[list[str]]:
        """Return the shortest way to `ref` through each component that needs it."""
        before = self._shortest(ref)
        chains = [[ref]] if self.root["bom-ref"] in self.needed_by[ref] else []
        chains += [[*before[one], ref] for one in self.needed_by[ref] if one in before]
        return sorted(chains, key=lambda chain: (len(chain), chain))[:MAX_CHAINS]

    def _shortest(self, without: str) -> dict[str, list[str]]:
        """Return the shortest way from what is asked for to each component, not by `without`."""
        found: dict[str, list[str]] = {}
        todo = deque((ref, [ref]) for ref in self.needs[self.root["bom-ref"]])
        while todo:
            ref, way = todo.popleft()
            if ref == without or ref in found:
                continue
            found[ref] = way
            todo.extend((one, [*way, one]) for one in self.needs.get(ref, ()))
        return found


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _values(component: Mapping[str, Any], name: str) -> list[str]:
    entries: Iterable[Mapping[str, str]] = component.get("properties", ())
    return [one["value"] for one in entries if one["name"] == f"{PROPERTY}{name}"]


def _number(component: Mapping[str, Any], name: str) -> int | None:
    return next(map(int, _values(component, name)), None)


def _licences(component: Mapping[str, Any]) -> Iterator[str]:
    for one in component.get("licenses", ()):
        if "expression" in one:
            yield one["expression"]
        else:
            yield one["license"].get("id") or one["license"]["name"]
