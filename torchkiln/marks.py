"""What hangs on what in a store: from inputs and layers to all that is made of them.

From layers' keys to the images that are made of them, to the blobs, trees and reports of these. A
record of a kind that is made outside the build (`pulled`) keeps the blobs that it names.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from torchkiln import layer_records
from torchkiln.descriptors import diff_ids
from torchkiln.digests import is_sha256, parse_digest, parse_sha256
from torchkiln.drift import RECORDS as DRIFTED
from torchkiln.lockfile import digest as digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torchkiln.layer import Layer
    from torchkiln.projects import Root
    from torchkiln.store import Store
    from torchkiln.stored import Kind, Thing

_SHA256: Final = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An image of the store: digests (hex) of its manifest and layers, and of all its blobs."""

    path: Path
    digest: str
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]
    blobs: frozenset[str]

    def is_of(self, layers: set[str]) -> bool:
        """Tell whether `layers` are all that it has, but for Torchkiln's own, which is the last.

        That one has no record and next to no bytes, and differs between images of the same wheels.
        """
        return any(part and layers.issuperset(part) for part in (self.layers, self.layers[:-1]))


def read_layout(path: Path) -> Layout | None:
    """Return the image at `path`, None where it is none that could be run or handed on."""
    try:
        (entry,) = json.loads((path / "index.json").read_bytes())["manifests"]
        manifest = _document(path, entry)
        config = _document(path, manifest["config"])
        return Layout(
            path=path,
            digest=parse_digest(entry["digest"]),
            layers=tuple(parse_digest(layer["digest"]) for layer in manifest["layers"]),
            diff_ids=tuple(diff_ids(config)),
            blobs=frozenset(parse_sha256(one.name) for one in (path / "blobs/sha256").iterdir()),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What of the `found` things of a store is needed with what: sets of their paths."""

    store: Store
    found: Sequence[Thing]

    @cached_property
    def images(self) -> list[Layout]:
        """Return the images that are whole."""
        layouts = [read_layout(path) for path in self.of_kind("images")]
        return [layout for layout in layouts if layout]

    def of_kind(self, *kinds: Kind) -> list[Path]:
        """Return all things of some kinds."""
        return [thing.path for thing in self.found if thing.kind in kinds]

    def records(self, *kinds: str) -> list[Path]:
        """Return the records of some kinds."""
        return [path for path in self.of_kind("records") if path.parent.name in kinds]

    def of_root(self, root: Root) -> frozenset[Path]:
        """Return what a lock needs: inputs, layers, and the images that are made of these."""
        made = [self._layers[key] for key in root.layers if key in self._layers]
        digests = {layer.digest for layer in made}
        compiled = [one for wheel in root.inputs for one in self._bytecode[wheel]]
        named = self._named(
            [layout for layout in self.images if layout.is_of(digests)],
            {*root.inputs, *digests, *(blob for _, blob in compiled)},
            {layer.diff_id for layer in made},
        )
        conda = [
            path
            for path in self.of_kind("conda packages")
            if path.name.removesuffix(".lock") in root.conda
        ]
        drifted = [path for path in self.records(DRIFTED) if self._debs(path) <= root.inputs]
        return named.union(conda, drifted, (path for path, _ in compiled))

    def of_images(self, images: Sequence[Layout]) -> frozenset[Path]:
        """Return what images need."""
        return self._named(images, set(), set())

    def of_records(self, records: Sequence[Path]) -> frozenset[Path]:
        """Return records that no build makes, and what the hashes in them name."""
        files = (path for path in records if path.is_file())
        texts = (f"{path.stem} {path.read_text(errors='replace')}" for path in files)
        hashes = {sha256 for text in texts for sha256 in _SHA256.findall(text)}
        named = [layout for layout in self.images if layout.digest in hashes]
        return self._named(named, hashes, set()).union(records)

    @property
    def of_all(self) -> frozenset[Path]:
        """Return what is kept with anything: conda's cache lock, reports of images elsewhere."""
        reports = [path for path in self.of_kind("reports") if not self.store.has(path.name)]
        cache = self.store.root / "conda/packages/.cache.lock"
        return frozenset([*reports, cache])

    def _named(self, images: Sequence[Layout], blobs: set[str], trees: set[str]) -> frozenset[Path]:
        """Return what is there of images and blobs, with what is kept under their names."""
        for image in images:
            blobs |= {image.digest, *image.blobs}
            trees |= {*image.diff_ids, f"image-{digest_of(list(image.diff_ids))}"}
        root = self.store.root
        named = {root / folder / name for folder in ("partial", "reports") for name in blobs}
        named |= {self.store.blob(name) for name in blobs} | {root / "trees" / one for one in trees}
        named |= {image.path for image in images}
        named |= {path for name in blobs for path in self._layer_records[name]}
        return self._paths & named

    @cached_property
    def _paths(self) -> frozenset[Path]:
        return frozenset(thing.path for thing in self.found)

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        """Return the layers that are known, by their keys."""
        keys = (path.stem for path in self.records(layer_records.KIND))
        read = ((key, layer_records.read(self.store, key)) for key in keys)
        return {key: layer for key, layer in read if layer}

    @cached_property
    def _layer_records(self) -> defaultdict[str, list[Path]]:
        """Return where the records of a layer lie, by its digest (hex)."""
        found = defaultdict(list)
        for key, layer in self._layers.items():
            found[layer.digest].append(self.store.root / "records/layers" / f"{key}.json")
        return found

    @cached_property
    def _bytecode(self) -> defaultdict[str, list[tuple[Path, str]]]:
        """Return the record and the blob of each piece of bytecode, by its wheel."""
        found = defaultdict(list)
        for path in self.records("bytecode"):
            record = self._record(path) or {}
            if is_sha256(record.get("wheel")) and is_sha256(record.get("blob")):
                found[record["wheel"]].append((path, record["blob"]))
        return found

    def _debs(self, path: Path) -> set[str]:
        """Return the packages (sha256) of a drifted base, whose record is a lock."""
        try:
            return {str(deb["sha256"]) for deb in (self._record(path) or {}).get("debs", ())}
        except (KeyError, TypeError):  # no lock: nothing is built of it
            return set()

    def _record(self, path: Path) -> dict[str, Any] | None:
        return self.store.read_record(path.parent.name, path.stem)


def _document(layout: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    path = layout / "blobs/sha256" / parse_digest(descriptor["digest"])
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document
