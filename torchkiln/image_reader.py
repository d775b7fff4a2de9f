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

from torchkiln.errors import ArchiveError
from torchkiln.layer_reader import read_layer
from torchkiln.listing import ImageListing, LayerListing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_MAX_DOCUMENT: Final = 16 << 20  # bytes of a config or manifest
_LAYER_NAME: Final = "io.torchkiln.layer"
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
        config = _document(layout, manifest["config"])
        layers = _layers(layout, manifest["layers"])
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
            config = self._documents[_blob_path(manifest["config"])]
            names = [_blob_path(layer) for layer in manifest["layers"]]
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
        document = self._documents.get("index.json", {})
        while "manifests" in document:
            entries = [
                entry
                for entry in document["manifests"]
                if _ATTESTATION not in entry.get("annotations", {})
                and _blob_path(entry) in self._documents
            ]
            if len(entries) != 1:
                message = f"it holds {len(entries)} images"
                raise ValueError(message)
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
    except (OSError, ValueError, KeyError) as error:
        raise ArchiveError(what, repr(error)) from error


def _first(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return an index's first image for amd64, else its first; attestations are none."""
    images = [one for one in entries if _ATTESTATION not in (one.get("annotations") or {})]
    fitting = [one for one in images if (one.get("platform") or {}).get("architecture") == "amd64"]
    if not images:
        message = "it holds no image"
        raise ValueError(message)
    return [*fitting, *images][0]


def _layers(layout: Path, descriptors: Sequence[dict[str, Any]]) -> tuple[LayerListing, ...]:
    """Read the layers in parallel, the largest first."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        largest_first = sorted(descriptors, key=lambda entry: -entry["size"])
        reading = {entry["digest"]: pool.submit(_layer, layout, entry) for entry in largest_first}
        return tuple(reading[entry["digest"]].result() for entry in descriptors)


def _layer(layout: Path, descriptor: dict[str, Any]) -> LayerListing:
    name = descriptor.get("annotations", {}).get(_LAYER_NAME, descriptor["digest"][:19])
    with (layout / _blob_path(descriptor)).open("rb", buffering=0) as stream:
        return read_layer(cast("IO[bytes]", stream), lambda _: name)


def _blob_path(descriptor: dict[str, Any]) -> str:
    return f"blobs/{str(descriptor['digest']).replace(':', '/')}"


def _document(layout: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    data = (layout / _blob_path(descriptor)).read_bytes()
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != descriptor["digest"]:
        message = f"the bytes are not those of their digest: {descriptor['digest']}"
        raise ValueError(message)
    return cast("dict[str, Any]", json.loads(data))
