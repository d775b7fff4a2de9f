"""The catalog: `images/variants.yaml`, the one list that people write by hand."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import yaml

from torchkiln import catalog_fields as read
from torchkiln import compat
from torchkiln.errors import CatalogError, did_you_mean
from torchkiln.places import Fault, Place, compose


@dataclass(frozen=True, kw_only=True)
class Base:
    """The Debian base that all variants share.

    `python` is major.minor of the release's own Python; `packages` are the Debian packages that
    the base holds beside those that the release marks essential or required.
    """

    release: str
    python: str
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One image: `cuda` is major.minor, None for the CPU; `packages` are PEP 508 requirements.

    `torch` is a plain version (`2.0.1`); `index` is a key of `Catalog.indexes` where torch's wheel
    comes from when it is not the user's configured index. `ended` (YYYY-MM-DD) is the day from
    which no torch comes for this CUDA any more, and `replacement` the variant to go to.
    """

    id: str
    torch: str
    cuda: str | None
    index: str | None
    packages: tuple[str, ...]
    ended: str | None = None
    replacement: str | None = None

    @property
    def flag(self) -> str:
        """Return the command-line flag that names this variant: `--cpu`, `--cuda 117`."""
        return f"--cuda {self.id.removeprefix('cu')}" if self.cuda else "--cpu"


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The base, the variants in the order of the file, and the named indexes (name to URL)."""

    base: Base
    indexes: dict[str, str]
    variants: tuple[Variant, ...]

    def variant(self, name: str) -> Variant:
        """Return the variant with the id `name`, or raise `CatalogError`."""
        for variant in self.variants:
            if variant.id == name:
                return variant
        nearest = did_you_mean(name, [variant.id for variant in self.variants])
        what = f"there is no variant `{name}`{nearest}"
        raise CatalogError(what, _listing(self))


def select(catalog: Catalog, *, cpu: bool, cuda: str | None) -> Variant:
    """Return the variant that the flags name: `--cpu`, or `--cuda` with 117, 11.7 or cu117."""
    if cpu == (cuda is not None):
        what = "give one of `--cpu` and `--cuda`" + (", not both" if cpu else "")
        raise CatalogError(what, _listing(catalog))
    if cuda is None:
        return catalog.variant("cpu")
    names = {
        name: variant
        for variant in catalog.variants
        if variant.cuda
        for name in (variant.id, variant.cuda, variant.id.removeprefix("cu"))
    }
    if cuda.lower() in names:
        return names[cuda.lower()]
    near = difflib.get_close_matches(cuda.lower(), names, n=1)
    nearest = f", did you mean `{names[near[0]].flag}`?" if near else ""
    what = f"there is no variant for `--cuda {cuda}`{nearest}"
    raise CatalogError(what, _listing(catalog))


def load(path: Path) -> Catalog:
    """Return the catalog in the file `path`; all its faults at once raise `CatalogError`."""
    here = Path.cwd()
    name = str(path.relative_to(here) if path.is_relative_to(here) else path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = f"the catalog cannot be read: {name}"
        raise CatalogError(what, str(error)) from None
    return parse(text, name)


def parse(text: str, name: str) -> Catalog:
    """Return the catalog in `text`; faults name the file `name`, the line and the key."""
    faults: list[Fault] = []
    try:
        catalog = _catalog(compose(text, faults))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        faults = [Fault(line, "", f"not YAML: {error.problem}")]
    except yaml.YAMLError as error:  # a character that YAML forbids has a position and no mark
        faults = [Fault(1, "", f"not YAML: {error}")]
    if faults:
        what = f"`{name}` has {len(faults)} fault{'s' * (len(faults) > 1)}"
        lines = (
            ": ".join(part for part in (f"{name}:{one.line}", one.key, one.text) if part)
            for one in sorted(faults)
        )
        raise CatalogError(what, "\n".join(lines))
    return catalog


def _listing(catalog: Catalog) -> str:
    """Return the variants that exist, one a line, by their flags."""
    width = max((len(one.flag) for one in catalog.variants), default=0)
    return "\n".join(f"{one.flag:{width}}  torch {one.torch}" for one in catalog.variants)


def _catalog(top: Place) -> Catalog:
    """Read the document; what is at fault is noted and left empty."""
    fields = top.fields(["base", "variants"], ["indexes"])
    base = _base(fields["base"]) if "base" in fields else Base(release="", python="", packages=())
    indexes = read.indexes(fields["indexes"]) if "indexes" in fields else {}
    entries = fields["variants"].entries() if "variants" in fields else {}
    if "variants" in fields and not entries:
        fields["variants"].fault("holds no variant")
    variants = tuple(
        _variant(name, place, base.python, indexes, list(entries))
        for name, place in entries.items()
    )
    return Catalog(base=base, indexes=indexes, variants=variants)


def _base(place: Place) -> Base:
    """Read `base`."""
    fields = place.fields(["release", "python", "packages"])
    release = fields["release"].text() if "release" in fields else ""
    python = fields["python"].text() if "python" in fields else ""
    known = compat.PYTHON_OF_DEBIAN
    if release and release not in known:
        nearest = did_you_mean(release, known)
        fields["release"].fault(f"not a known Debian release: `{release}`{nearest}")
    elif python and release and python != known[release]:
        fields["python"].fault(f"Debian {release} has Python {known[release]}, not {python}")
    packages = tuple(read.debian_package(one) for one in read.items(fields, "packages"))
    return Base(release=release, python=python, packages=packages)


def _variant(
    name: str, place: Place, python: str, indexes: dict[str, str], names: list[str]
) -> Variant:
    """Read one entry of `variants`, whose ids are `names`."""
    fields = place.fields(["torch", "packages"], ["cuda", "index", "ended", "replacement"])
    torch = read.torch(fields["torch"], python) if "torch" in fields else ""
    cuda = read.cuda(fields["cuda"]) if "cuda" in fields else None
    index = fields["index"].text() if "index" in fields else None
    if index and index not in indexes:
        fields["index"].fault(f"unknown index: `{index}`{did_you_mean(index, indexes)}")
    ended, replacement = None, None
    if cuda != "":
        read.check_id(name, place, cuda)
        fields.get("cuda", place).fault_if(compat.build_fault(torch, cuda, index))
        ended, replacement = read.end_of_life(place, fields, cuda, names[names.index(name) + 1 :])
    packages = read.requirements(place, read.items(fields, "packages"), torch)
    return Variant(
        id=name,
        torch=torch,
        cuda=cuda,
        index=index,
        packages=packages,
        ended=ended,
        replacement=replacement,
    )
