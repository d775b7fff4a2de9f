"""Which things of the store are needed: those that locks name, and all that hangs on them.

From the locks' layers to the images that are made of them, to the blobs, trees and reports of
these. A record of a kind that is made outside the build (`pulled`) keeps the blobs that it names.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from torchkiln.lockfile import digest as digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torchkiln.roots import Roots
    from torchkiln.store import Store
    from torchkiln.stored import Thing

_MADE: Final = frozenset({"layers", "bytecode"})  # kinds of records that builds make again
_PULLED: Final = "pulled"
_INPUTS: Final = frozenset({"wheels", "debs", "conda packages"})
_DAY: Final = 86400  # seconds
_SHA256: Final = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True, kw_only=True)
class Keep:
    """What is kept beside what locks need: things younger than `days`, inputs, pulled images."""

    days: float = 0
    inputs: bool = False
    pulled: bool = True


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An image of the store: digests (hex) of its manifest and layers, and of all its blobs."""

    path: Path
    digest: str
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]
    blobs: frozenset[str]


def read_layout(path: Path) -> Layout | None:
    """Return the image at `path`, None where it is none that could be run or handed on."""
    try:
        (entry,) = json.loads((path / "index.json").read_bytes())["manifests"]
        manifest = _document(path, entry)
        config = _document(path, manifest["config"])
        return Layout(
            path=path,
            digest=_hex(entry["digest"]),
            layers=tuple(_hex(layer["digest"]) for layer in manifest["layers"]),
            diff_ids=tuple(map(_hex, config["rootfs"]["diff_ids"])),
            blobs=frozenset(blob.name for blob in (path / "blobs/sha256").iterdir()),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What is needed of the `found` things of a store at the time `now` (seconds since 1970)."""

    store: Store
    found: Sequence[Thing]
    roots: Roots
    keep: Keep
    now: float

    def needed(self, thing: Thing) -> bool:
        """Tell whether the thing is to be kept."""
        if thing.kind == "leftovers":
            return False
        return self._young(thing.path) or thing.path in self._paths

    @cached_property
    def _paths(self) -> frozenset[Path]:
        return frozenset(self._marked())

    def _marked(self) -> Iterator[Path]:
        """Give the paths of what is needed whatever its age; some may not exist."""
        inputs = self.roots.inputs
        layers = {key: self.store.read_record("layers", key) for key in self._keys}
        made = [record for record in layers.values() if record]
        blobs = {*inputs, *self._pinned, *(record["digest"] for record in made)}
        trees = {record["diff_id"] for record in made}
        for layout in self._images:
            blobs |= {layout.digest, *layout.blobs}
            trees |= {*layout.diff_ids, f"image-{digest_of(list(layout.diff_ids))}"}
        for path in self._records("bytecode"):
            record = self.store.read_record("bytecode", path.stem) or {}
            if record.get("wheel") in inputs:
                blobs.add(record["blob"])
                yield path
        for key in self._keys:
            yield self.store.root / "records/layers" / f"{key}.json"
        yield from self._other_records
        yield from (layout.path for layout in self._images)
        yield from (self.store.trees / name for name in trees)
        yield from map(self.store.blob, blobs)
        yield from (self.store.root / "partial" / name for name in inputs)
        yield from self._reports(blobs)
        yield from self._conda
        if self.keep.inputs:
            yield from (one.path for one in self.found if one.kind in _INPUTS)

    @property
    def _conda(self) -> Iterator[Path]:
        """Give conda's packages that a lock names, and the locks of their cache."""
        for thing in self.found:
            name = thing.path.name.removesuffix(".lock")
            if thing.kind == "conda packages" and (name in self.roots.conda or name == ".cache"):
                yield thing.path

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(key for image in self.roots.images for key in image)

    @cached_property
    def _images(self) -> list[Layout]:
        """Return the images to keep; of those of a lock also older ones with the same wheels.

        These differ in Torchkiln's own layer, which has no record and next to no bytes.
        """
        wanted = set()
        for keys in self.roots.images:
            records = [self.store.read_record("layers", key) for key in keys]
            wanted.add(tuple(record["digest"] if record else "" for record in records))
        layouts = [read_layout(one.path) for one in self.found if one.kind == "images"]
        return [
            layout
            for layout in layouts
            if layout
            if {layout.layers, layout.layers[:-1]} & wanted
            or layout.digest in self._pinned
            or self._young(layout.path)
        ]

    @cached_property
    def _pinned(self) -> frozenset[str]:
        """Return all hashes in records that no build makes."""
        texts = (
            f"{path.stem} {path.read_text(errors='replace')}"
            for path in self._other_records
            if path.is_file()
        )
        return frozenset(one for text in texts for one in _SHA256.findall(text))

    @cached_property
    def _other_records(self) -> list[Path]:
        paths = [one.path for one in self.found if one.kind == "records"]
        left_out = _MADE if self.keep.pulled else _MADE | {_PULLED}
        return [path for path in paths if path.parent.name not in left_out]

    def _records(self, kind: str) -> list[Path]:
        return [
            one.path for one in self.found if one.kind == "records" and one.path.parent.name == kind
        ]

    def _reports(self, blobs: set[str]) -> Iterator[Path]:
        """Give the reports of images that are kept, or are in an engine and not here at all."""
        for thing in self.found:
            name = thing.path.name
            if thing.kind == "reports" and (name in blobs or not self.store.has(name)):
                yield thing.path

    def _young(self, path: Path) -> bool:
        if not self.keep.days:
            return False
        try:
            return path.lstat().st_mtime > self.now - self.keep.days * _DAY
        except FileNotFoundError:
            return False


def _document(layout: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    path = layout / "blobs/sha256" / _hex(descriptor["digest"])
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
