"""Read an image from wherever it lies: an OCI layout, or an archive of any engine.

Each layer is read once. In the same pass every digest is recomputed and every file hashed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final, cast

from isal.igzip_lib import IsalError

from torchkiln.descriptors import descriptor, descriptors, items, mapping
from torchkiln.errors import ArchiveError
from torchkiln.layer_reader import read_layer
from torchkiln.listing import ImageListing, LayerListing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torchkiln.descriptors import Descriptor

_MAX_DOCUMENT: Final = 16 << 20  # bytes of a config or manifest
_ATTESTATION: Final = "vnd.docker.reference.type"


def read_layout(layout: Path) -> ImageListing:
    """Return what the image of an OCI layout directory holds: the one for amd64 of several.

    Raises `ArchiveError` for a layout that cannot be read; digests are compared by rules, not here.
    """
    with refusing(f"this is no OCI layout of an image: {layout}"):
        index = json.loads((layout / "index.json").read_bytes())
        manifest = index
        while "manifests" in manifest:  # BuildKit's has an index below the first one
            manifest = _document(layout, _first(manifest["manifests"]))
        config = _document(layout, descriptor(manifest["config"]))
        layers = _layers(layout, descriptors(manifest["layers"]))
        return ImageListing(index=index, manifest=manifest, config=config, layers=layers)


def read_archive(stream: IO[bytes], title: str) -> ImageListing:
    """Return what the one image of an archive holds; `title` names the archive in errors.

    Reads what `docker save`, `podman save` and `kiln export` write, in one pass, because it may
    come through a pipe.
    """
    with refusing(f"this is no archive of an image: {title}"):
        found = _Archive()
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                found.take(archive, member)
        return found.image()


class _Archive:
    """What of an archive has been read so far: documents and layers, by path."""

    def __init__(self) -> None:
        self._documents: dict[str, Any] = {}
        self._layers: dict[str, LayerListing] = {}
        self._aliases: dict[str, str] = {}

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Read a member if it is a document or a layer."""
        path = posixpath.normpath(member.name)
        if member.issym() or member.islnk():  # older Dockers store a layer twice as a link
            folder = posixpath.dirname(path) if member.issym() else ""
            self._aliases[path] = posixpath.normpath(posixpath.join(folder, member.linkname))
            return
        content = archive.extractfile(member) if member.isfile() else None
        if content is None or not member.size:
            return
        stream = io.BufferedReader(cast("io.RawIOBase", content))
        if stream.peek(1)[:1] in {b"{", b"["}:
            if member.size > _MAX_DOCUMENT:
                message = f"{path} is too large for a document: {member.size} bytes"
                raise ValueError(message)
            self._documents[path] = json.loads(stream.read())
        elif path.startswith("blobs/") or path.endswith(".tar"):
            self._layers[path] = read_layer(stream, lambda digest: f"sha256:{digest[:12]}")

    def image(self) -> ImageListing:
        """Return the image when all is read."""
        manifest = self._manifest()
        if manifest:
            config = self._documents[_blob_path(descriptor(manifest["config"]))]
            names = [_blob_path(layer) for layer in descriptors(manifest["layers"])]
        else:
            (entry,) = self._documents["manifest.json"]
            config, names = self._documents[self._path(entry["Config"])], entry["Layers"]
        return ImageListing(
            index=self._documents.get("index.json", {}),
            manifest=manifest,
            config=config,
            layers=tuple(self._layers[self._path(name)] for name in names),
        )

    def _manifest(self) -> dict[str, Any]:
        """Return the OCI manifest; empty where the archive has none."""
        document, followed = self._documents.get("index.json", {}), set[str]()
        while "manifests" in document:
            entries = [
                entry
                for entry in descriptors(document["manifests"])
                if _ATTESTATION not in entry.annotations and _blob_path(entry) in self._documents
            ]
            if len(entries) != 1:
                message = f"it holds {len(entries)} images"
                raise ValueError(message)
            if entries[0].sha256 in followed:  # its documents are not hashed
                message = "an index of it names itself"
                raise ValueError(message)
            followed.add(entries[0].sha256)
            document = self._documents[_blob_path(entries[0])]
        return cast("dict[str, Any]", document)

    def _path(self, name: str) -> str:
        path = posixpath.normpath(name)
        return self._aliases.get(path, path)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn what is raised for broken input into an `ArchiveError` that begins with `what`."""
    try:
        yield
    except (tarfile.TarError, IsalError, EOFError) as error:  # type: ignore[misc] # an instance in isal's stub
        message = f"a layer is broken: {error}"
        raise ArchiveError(what, message) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(what, repr(error)) from error


def _first(entries: object) -> Descriptor:
    """Return an index's first image for amd64, else its first; attestations are none."""
    said = [mapping(one) for one in items(entries)]
    images = [one for one in said if _ATTESTATION not in mapping(one.get("annotations") or {})]
    fitting = [one for one in images if _architecture(one) == "amd64"]
    if not images:
        message = "it holds no image"
        raise ValueError(message)
    return descriptor([*fitting, *images][0])


def _architecture(entry: Mapping[str, Any]) -> object:
    return mapping(entry.get("platform") or {}).get("architecture")


def _layers(layout: Path, found: Sequence[Descriptor]) -> tuple[LayerListing, ...]:
    """Read the layers in parallel, the largest first."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        largest_first = sorted(found, key=lambda one: -one.size)
        reading = {one.sha256: pool.submit(_layer, layout, one) for one in largest_first}
        return tuple(reading[one.sha256].result() for one in found)


def _layer(layout: Path, one: Descriptor) -> LayerListing:
    with (layout / _blob_path(one)).open("rb", buffering=0) as stream:
        return read_layer(cast("IO[bytes]", stream), lambda _: one.name(one.digest[:19]))


def _blob_path(one: Descriptor) -> str:
    return f"blobs/sha256/{one.sha256}"


def _document(layout: Path, one: Descriptor) -> dict[str, Any]:
    data = (layout / _blob_path(one)).read_bytes()
    if hashlib.sha256(data).hexdigest() != one.sha256:
        message = f"the bytes are not those of their digest: {one.digest}"
        raise ValueError(message)
    return cast("dict[str, Any]", mapping(json.loads(data)))
