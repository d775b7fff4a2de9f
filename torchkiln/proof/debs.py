"""What the Debian packages of an image say of themselves, read from the base's layer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast

from debian.deb822 import Deb822, PkgRelation

from torchkiln.depends import ALWAYS
from torchkiln.layer_reader import read_layer
from torchkiln.listing import DIRECTORY, FILE, ImageListing
from torchkiln.packages import listed_files
from torchkiln.proof import licences
from torchkiln.proof.part import Part, purl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torchkiln.engine.job import Job
    from torchkiln.layer import Layer
    from torchkiln.lockfile import LockedDeb
    from torchkiln.store import Store


@dataclass(frozen=True, kw_only=True)
class InstalledBase:
    """The base as dpkg left it: what its layer holds, and dpkg's entry of each package."""

    layer: Layer
    listing: ImageListing
    entries: Mapping[str, Mapping[str, str]]

    @property
    def release(self) -> str:
        """Return the release's number (`12`), by which scanners know it."""
        lines = self.listing.members["usr/lib/os-release"].text.splitlines()
        return next(line for line in lines if line.startswith("VERSION_ID=")).split('"')[1]


def read_base(store: Store, layer: Layer) -> InstalledBase:
    """Return the base that `layer` of the store holds."""
    with store.checked(layer.digest, layer.name).open("rb", buffering=0) as stream:
        read = read_layer(cast("IO[bytes]", stream), lambda _: layer.name)
    listing = ImageListing(index={}, manifest={}, config={}, layers=(read,))
    status = listing.members["var/lib/dpkg/status"].text.splitlines()
    entries = {one["Package"]: one for one in Deb822.iter_paragraphs(status)}
    return InstalledBase(layer=layer, listing=listing, entries=entries)


def deb_parts(job: Job, base: InstalledBase) -> list[Part]:
    """Return the parts that are Debian packages; `base` is the job's."""
    purls = {one.name: deb_purl(one, base.release) for one in job.base_lock.debs}
    needs = needed({name: base.entries[name] for name in purls})
    return [
        _part(
            base,
            one,
            ref=purls[one.name],
            needs=tuple(purls[name] for name in sorted(needs[one.name])),
            asked=tuple(_asked(base.entries[one.name], job.base.packages)),
        )
        for one in job.base_lock.debs
    ]


def deb_purl(locked: LockedDeb, release: str) -> str:
    """Return the package's URL with the release's number, without which no advisory is found."""
    qualifiers = {"arch": locked.architecture, "distro": f"debian-{release}"}
    return purl("deb/debian", locked.name, locked.version, **qualifiers)


def needed(entries: Mapping[str, Mapping[str, str]]) -> dict[str, set[str]]:
    """Return the packages that each one needs: of alternatives, the first that is there.

    `entries` are dpkg's (or the index's) fields by package; a package also stands for what it
    provides.
    """
    providers: dict[str, list[str]] = defaultdict(list)
    for name, entry in sorted(entries.items()):
        for provided in _relations(entry, "Provides"):
            providers[provided[0]].append(name)
    found: dict[str, set[str]] = {}
    for name, entry in entries.items():
        clauses = [*_relations(entry, "Pre-Depends"), *_relations(entry, "Depends")]
        met = (_first(alternatives, entries, providers) for alternatives in clauses)
        found[name] = {one for one in met if one and one != name}
    return found


def _first(
    alternatives: Iterable[str], entries: Mapping[str, object], providers: Mapping[str, list[str]]
) -> str | None:
    for name in alternatives:
        if name in entries:
            return name
        if providers.get(name):
            return providers[name][0]
    return None


def _relations(entry: Mapping[str, str], name: str) -> Iterator[list[str]]:
    """Give the names of each clause of a relationship field."""
    if text := entry.get(name):
        for alternatives in PkgRelation.parse_relations(text):
            yield [one["name"] for one in alternatives]


def _asked(entry: Mapping[str, str], packages: Iterable[str]) -> Iterator[str]:
    """Give the reasons for which the base holds a package without another one that needs it."""
    name = entry["Package"]
    if name in packages:
        yield f"base.packages: {name}"
    if entry.get("Essential") == "yes":
        yield "Debian: essential"
    if entry.get("Priority") == "required":
        yield "Debian: required"
    if name in ALWAYS:
        yield f"every base: {name}"


def _part(
    base: InstalledBase,
    locked: LockedDeb,
    *,
    ref: str,
    needs: tuple[str, ...],
    asked: tuple[str, ...],
) -> Part:
    paths = set(_paths(base.listing, locked))
    members = [base.listing.members[path] for path in paths]
    copyright_ = base.listing.file(f"usr/share/doc/{locked.name}/copyright")
    return Part(
        name=locked.name,
        version=locked.version,
        purl=ref,
        sha256=locked.sha256,
        size=locked.size,
        unpacked=sum(member.size for member in members if member.kind == FILE),
        supplier=base.entries[locked.name].get("Maintainer", ""),
        licences=licences.of_deb(locked.name, copyright_.text if copyright_ else ""),
        layer=base.layer.name,
        paths=tuple(sorted(f"/{path}" for path in paths)),
        needs=needs,
        asked=asked,
    )


def _paths(listing: ImageListing, locked: LockedDeb) -> Iterator[str]:
    """Give the files of a package; what the slim base leaves out is in dpkg's list alone."""
    for stem in (locked.name, f"{locked.name}:{locked.architecture}"):
        path = f"var/lib/dpkg/info/{stem}.list"
        if path in listing.members:
            for one in listed_files(listing, path):
                member = listing.members.get(one)
                if member and member.kind != DIRECTORY:
                    yield one
