"""Archives of every engine, read in one pass."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from image_archives import image

from torchkiln.errors import ArchiveError
from torchkiln.image_archive import archive
from torchkiln.image_reader import read_archive, read_layout
from torchkiln.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.listing import ImageListing


class Pipe(io.RawIOBase):
    """A stream that cannot be sought in, and gives few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Give less than is asked for."""
        return self._data.readinto(buffer[:1000])


def tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            made.addfile(info)
    return stream.getvalue()


def read(data: bytes) -> ImageListing:
    return read_archive(io.BufferedReader(Pipe(data)), "image.tar")


def config(*layers: bytes) -> bytes:
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    return json.dumps({"config": {"User": "1000"}, "rootfs": {"diff_ids": diff_ids}}).encode()


def test_an_archive_says_what_its_layout_says(tmp_path: Path) -> None:
    made = image(Store(tmp_path), "base", "torch")
    of_archive = read(b"".join(archive(made.layout)))
    of_layout = read_layout(made.layout)

    assert of_layout.members == of_archive.members
    assert of_layout.config == of_archive.config
    for one, other in zip(of_layout.layers, of_archive.layers, strict=True):
        assert (one.digest, one.diff_id, one.size) == (other.digest, other.diff_id, other.size)


def test_an_archive_with_another_name_differs_in_nothing_else(tmp_path: Path) -> None:
    made = image(Store(tmp_path), "base")
    renamed = b"".join(archive(made.layout, reference="torchkiln:other"))

    assert read(renamed).members == read_layout(made.layout).members
    with tarfile.open(fileobj=io.BytesIO(renamed)) as opened:
        manifest = json.load(opened.extractfile("manifest.json"))  # type: ignore[arg-type]
        index = json.load(opened.extractfile("index.json"))  # type: ignore[arg-type]
    names = index["manifests"][0]["annotations"]
    assert ["torchkiln:other"] == manifest[0]["RepoTags"]
    assert "docker.io/library/torchkiln:other" == names["io.containerd.image.name"]
    assert "other" == names["org.opencontainers.image.ref.name"]


def test_dockers_older_archives_are_read() -> None:
    """Layers are plain tars; one that stands twice is a link to the other's folder."""
    one, two = tar({"a": b"1"}), tar({"b": b"2"})
    entry = {"Config": "c.json", "RepoTags": ["x:y"], "Layers": [f"{n}/layer.tar" for n in "123"]}
    found = read(
        tar(
            {
                "1/VERSION": b"1.0",
                "1/layer.tar": one,
                "2/layer.tar": two,
                "c.json": config(one, two, one),
                "manifest.json": json.dumps([entry]).encode(),
            },
            {"3/layer.tar": "../1/layer.tar"},
        )
    )

    assert {"a", "b"} == set(found.members)
    assert 3 == len(found.layers)
    assert {} == found.manifest
    assert "1000" == found.runtime["User"]


def test_podmans_archives_are_read() -> None:
    layer = tar({"a": b"1"})
    name = f"{hashlib.sha256(layer).hexdigest()}.tar"
    entry = {"Config": "c.json", "RepoTags": None, "Layers": [name]}
    files = {name: layer, "c.json": config(layer), "manifest.json": json.dumps([entry]).encode()}

    assert {"a"} == set(read(tar(files)).members)


def oci(manifests: list[tuple[dict[str, Any], dict[str, Any]]], blobs: list[bytes]) -> bytes:
    """Return an archive with an index of manifests, each with what its descriptor says more."""
    files = {f"blobs/sha256/{hashlib.sha256(data).hexdigest()}": data for data in blobs}
    entries = []
    for manifest, more in manifests:
        data = json.dumps(manifest).encode()
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        entries.append({"digest": f"sha256:{digest}", "size": 1, **more})
    index = json.dumps({"manifests": entries}).encode()
    return tar({"index.json": index, **files})


def manifest(layer: bytes) -> tuple[dict[str, Any], list[bytes]]:
    blob, about = gzip.compress(layer), config(layer)
    digests = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (about, blob)]
    about_config, about_layer = ({"digest": digest, "size": 1} for digest in digests)
    return {"config": about_config, "layers": [about_layer]}, [about, blob]


def test_an_attestation_is_no_second_image() -> None:
    body, blobs = manifest(tar({"a": b"1"}))
    about = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}

    assert {"a"} == set(read(oci([(body, {}), ({"layers": []}, about)], blobs)).members)


def test_two_images_in_one_archive_are_refused() -> None:
    first, blobs = manifest(tar({"a": b"1"}))
    second, more = manifest(tar({"b": b"2"}))

    with pytest.raises(ArchiveError, match="no archive of an image") as caught:
        read(oci([(first, {}), (second, {})], blobs + more))
    assert "holds 2 images" in caught.value.why


def test_a_layer_compressed_with_zstd_is_named_as_such() -> None:
    with pytest.raises(ArchiveError, match="zstd"):
        read(tar({"blobs/sha256/0": b"\x28\xb5\x2f\xfd" + bytes(100)}))


LOOP = json.dumps({"manifests": [{"digest": f"sha256:{'a' * 64}", "size": 1}]}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"no tar at all" * 100,
        tar({"index.json": b"{"}),
        tar({"index.json": b"{}", "x": b"y"}),
        tar({"manifest.json": b'[{"Config": "c", "Layers": []}]'}),
        tar({"blobs/sha256/0": b"\x1f\x8b\x08\x00" + bytes(100)}),
        b"".join([tar({"a": b"1" * 9999})])[:3000],
        tar({"index.json": LOOP, f"blobs/sha256/{'a' * 64}": LOOP}),
        tar({"index.json": b"[1]"}),
        tar({"manifest.json": b'[{"Config": 5, "Layers": []}]'}),
    ],
    ids=[
        *("text", "half a document", "no manifest", "no config", "half a layer", "half an archive"),
        *("an index that names itself", "a list", "a number for a path"),
    ],
)
def test_what_is_no_archive_of_an_image_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="no archive of an image"):
        read(data)


def test_the_image_for_amd64_is_found_below_the_index_of_buildkit(tmp_path: Path) -> None:
    """Beside an attestation and an image for another architecture, which lies nowhere."""
    layout = image(Store(tmp_path), "base").layout
    index = json.loads((layout / "index.json").read_bytes())
    (own,) = index["manifests"]
    attestation = {"digest": "sha256:0", "annotations": {"vnd.docker.reference.type": "x"}}
    arm = {"digest": "sha256:1", "platform": {"architecture": "arm64", "os": "linux"}}
    below = json.dumps({"manifests": [attestation, arm, own]}).encode()
    digest = hashlib.sha256(below).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(below)
    before = read_layout(layout)
    index["manifests"] = [{"digest": f"sha256:{digest}", "size": 1, "annotations": None}]
    (layout / "index.json").write_text(json.dumps(index))

    assert before.members == read_layout(layout).members


def test_a_layout_of_attestations_alone_is_refused(tmp_path: Path) -> None:
    layout = image(Store(tmp_path), "base").layout
    index = {"manifests": [{"annotations": {"vnd.docker.reference.type": "x"}}]}
    (layout / "index.json").write_text(json.dumps(index))

    with pytest.raises(ArchiveError, match="this is no OCI layout"):
        read_layout(layout)
