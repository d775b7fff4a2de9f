from __future__ import annotations

import getpass
import gzip
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import image_archives

from torchkiln import image_archive
from torchkiln.config import ImageConfig
from torchkiln.image import Image, write_image
from torchkiln.layer import Entry, Layer, write_layer
from torchkiln.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

CONFIG = ImageConfig(
    environment={"PATH": "/opt/venv/bin:/usr/bin", "LANG": "C.UTF-8"},
    labels={"org.opencontainers.image.title": "torchkiln cpu"},
    created="2026-01-02T03:04:05Z",
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
PREDEFINED = re.compile(
    r"org\.opencontainers\.image\.(created|authors|url|documentation|source|version|revision"
    r"|vendor|licenses|ref\.name|title|description|base\.digest|base\.name)"
)


def layer(store: Store, name: str, *entries: Entry) -> Layer:
    with store.workspace() as folder:
        made = write_layer(folder / "layer", name, entries)
        store.adopt(folder / "layer", made.digest)
    return made


def image(root: Path, config: ImageConfig = CONFIG) -> Image:
    """Return a fixed small image of three layers."""
    store = Store(root)
    layers = [
        layer(
            store,
            "debian",
            Entry.text("usr/bin/sh", b"#!", mode=0o755),
            Entry.link("bin", "usr/bin"),
        ),
        layer(store, "wheels", Entry.text("opt/venv/x.py", b"x = 1\n")),
        layer(store, "torchkiln", Entry.directory("workspace", 0o1777)),
    ]
    return write_image(store, "cpu", layers, config)


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    """Return a blob after checking its descriptor (image-spec descriptor.md)."""
    assert isinstance(descriptor["mediaType"], str)
    assert DIGEST.fullmatch(descriptor["digest"])
    path: Path = layout / "blobs" / "sha256" / descriptor["digest"].partition(":")[2]
    data = path.read_bytes()
    assert path.is_file()
    assert not path.is_symlink()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == descriptor["digest"]
    assert len(data) == descriptor["size"]
    annotations = descriptor.get("annotations", {})
    assert all(isinstance(value, str) for value in annotations.values())
    for key in annotations:
        assert not key.startswith("org.opencontainers.") or PREDEFINED.fullmatch(key)
    return data


def validate(layout: Path) -> None:
    """Check every MUST of the image spec (1.1) that a layout of one image can break."""
    # image-layout.md
    assert {"imageLayoutVersion": "1.0.0"} == json.loads((layout / "oci-layout").read_bytes())
    index = json.loads((layout / "index.json").read_bytes())
    # image-index.md
    assert 2 == index["schemaVersion"]
    assert "application/vnd.oci.image.index.v1+json" == index["mediaType"]
    (descriptor,) = index["manifests"]
    assert "application/vnd.oci.image.manifest.v1+json" == descriptor["mediaType"]
    assert {"architecture": "amd64", "os": "linux"} == descriptor["platform"]
    assert re.fullmatch(
        r"[A-Za-z0-9]+([-._:@+/]+[A-Za-z0-9]+)*",
        descriptor["annotations"]["org.opencontainers.image.ref.name"],
    )
    # manifest.md
    manifest = json.loads(blob(layout, descriptor))
    assert 2 == manifest["schemaVersion"]
    assert "application/vnd.oci.image.manifest.v1+json" == manifest["mediaType"]
    assert "application/vnd.oci.image.config.v1+json" == manifest["config"]["mediaType"]
    # config.md
    config = json.loads(blob(layout, manifest["config"]))
    assert ("amd64", "linux") == (config["architecture"], config["os"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", config["created"])
    assert "layers" == config["rootfs"]["type"]
    assert all(re.fullmatch(r"[^=\0]+=[^\0]*", line) for line in config["config"]["Env"])
    for key in config["config"]["Labels"]:
        assert not key.startswith("org.opencontainers.") or PREDEFINED.fullmatch(key)
    full = [entry for entry in config["history"] if not entry.get("empty_layer")]
    assert len(full) == len(manifest["layers"]) == len(config["rootfs"]["diff_ids"])
    # layer.md
    for one, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert "application/vnd.oci.image.layer.v1.tar+gzip" == one["mediaType"]
        tar = gzip.decompress(blob(layout, one))
        assert diff_id == f"sha256:{hashlib.sha256(tar).hexdigest()}"
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            names = archive.getnames()
        assert len(set(names)) == len(names)


def test_layout_keeps_every_must_of_the_image_spec(tmp_path: Path) -> None:
    validate(image(tmp_path).layout)


def test_layout_holds_what_the_manifest_names_and_no_more(tmp_path: Path) -> None:
    made = image(tmp_path)
    files = {
        str(path.relative_to(made.layout)) for path in made.layout.rglob("*") if path.is_file()
    }
    digests = {made.digest, *(one.digest for one in made.layers)}
    config = json.loads((tmp_path / "blobs/sha256" / made.digest).read_bytes())["config"]["digest"]

    assert {"oci-layout", "index.json", "manifest.json"} | {
        f"blobs/sha256/{digest}" for digest in (*digests, config.partition(":")[2])
    } == files


def test_golden_image_has_the_bytes_that_were_promised(tmp_path: Path) -> None:
    """A change of it changes the digest of every image that is out there: only on purpose."""
    made = image(tmp_path)

    assert "4d0298997f3fc6240a3d13d0bce86b30605c0c05c91c53fd5a5d16bd3bef53c2" == made.digest
    assert (
        "fcea97b4374106eef51d221d2ecf10acd49d8c77988e231a0d98d9d57cb1a80e"
        == hashlib.sha256((made.layout / "index.json").read_bytes()).hexdigest()
    )


def test_json_is_canonical(tmp_path: Path) -> None:
    made = image(tmp_path)
    data = (tmp_path / "blobs/sha256" / made.digest).read_bytes()

    assert json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode() == data


def test_image_is_the_same_in_any_store_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        second = image(tmp_path / "elsewhere")
    finally:
        os.umask(before)
    first = image(tmp_path / "here")

    assert first.digest == second.digest
    assert archive(first) == archive(second)


def archive(made: Image) -> bytes:
    return b"".join(image_archive.archive(made.layout))


def test_nothing_of_this_machine_is_in_the_image(tmp_path: Path) -> None:
    data = archive(image(tmp_path))
    texts = [
        path.read_bytes() for path in tmp_path.glob("blobs/sha256/*") if path.stat().st_size < 5000
    ]

    # Shorter names may be in there by chance; `root` is.
    secrets = [name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 4]
    for secret in (*secrets, tmp_path.name):
        assert all(secret.encode() not in text for text in (data, *texts))


def test_archive_has_the_small_files_first_and_constant_headers(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(image(tmp_path)))) as opened:
        members = [member for member in opened if member.isfile()]

    assert ["oci-layout", "index.json", "manifest.json"] == [member.name for member in members[:3]]
    assert sorted(members[3:], key=lambda member: member.name) == members[3:]
    assert {(0, 0, "", "", 0o644, 315532800)} == {
        (one.uid, one.gid, one.uname, one.gname, one.mode, one.mtime) for one in members
    }


def test_archive_that_is_unpacked_is_the_layout(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(archive(image(tmp_path / "store")))
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", "image.tar", "-C", "out"], cwd=tmp_path, check=True)

    validate(tmp_path / "out")


def test_docker_manifest_names_config_and_layers_by_path(tmp_path: Path) -> None:
    made = image(tmp_path)
    (entry,) = json.loads((made.layout / "manifest.json").read_bytes())

    assert ["torchkiln:cpu"] == entry["RepoTags"]
    assert [f"blobs/sha256/{one.digest}" for one in made.layers] == entry["Layers"]
    assert json.loads((made.layout / entry["Config"]).read_bytes())["config"]["User"] == "1000:0"


def test_each_layer_is_told_by_name_in_history_and_annotations(tmp_path: Path) -> None:
    made = image(tmp_path)
    manifest = json.loads((tmp_path / "blobs/sha256" / made.digest).read_bytes())
    named = [one["annotations"]["io.torchkiln.layer"] for one in manifest["layers"]]

    assert ["debian", "wheels", "torchkiln"] == named
    assert {"gzip/isal-1.9.1-1"} == {
        one["annotations"]["io.torchkiln.codec"] for one in manifest["layers"]
    }


def test_environment_is_sorted_and_as_given(tmp_path: Path) -> None:
    made = image(tmp_path)
    manifest = json.loads((tmp_path / "blobs/sha256" / made.digest).read_bytes())
    config = json.loads(blob(made.layout, manifest["config"]))

    assert ["LANG=C.UTF-8", "PATH=/opt/venv/bin:/usr/bin"] == config["config"]["Env"]


def test_writing_an_image_again_touches_nothing(tmp_path: Path) -> None:
    first = image(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in first.layout.rglob("*")}

    assert first == write_image(Store(tmp_path), "cpu", first.layers, CONFIG)
    assert times == {path: path.stat().st_mtime_ns for path in first.layout.rglob("*")}
    assert [] == list((tmp_path / "tmp").iterdir())


def test_layout_takes_over_a_blob_that_was_made_anew(tmp_path: Path) -> None:
    """A damaged blob was removed and built again: its link in the layout is the damaged one."""
    first = image(tmp_path)
    digest = first.layers[0].digest
    blob = tmp_path / "blobs/sha256" / digest
    right = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(bytes(len(right)))
    blob.unlink()

    again = image(tmp_path)

    assert right == (again.layout / "blobs/sha256" / digest).read_bytes()


def test_layout_shares_its_blobs_with_the_store(tmp_path: Path) -> None:
    made = image(tmp_path)
    digest = made.layers[0].digest

    assert (made.layout / "blobs/sha256" / digest).samefile(tmp_path / "blobs/sha256" / digest)


def test_file_system_without_hard_links_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", fail)
    made = image(tmp_path)

    validate(made.layout)
    assert not (made.layout / "blobs/sha256" / made.digest).samefile(
        tmp_path / "blobs/sha256" / made.digest
    )


def test_sizes_are_the_sums_of_the_layers(tmp_path: Path) -> None:
    made = image(tmp_path)

    assert sum(one.size for one in made.layers) == made.size
    assert sum(one.unpacked for one in made.layers) == made.unpacked


def test_an_image_may_have_a_layer_twice(tmp_path: Path) -> None:
    """Docker's empty layer often is there more than once."""
    store = Store(tmp_path)
    one = image_archives.layer(store, "a", Entry.text("a", b"1"))

    made = write_image(store, "cpu", [one, one], image_archives.CONFIG)

    manifest = json.loads((made.layout / "blobs/sha256" / made.digest).read_bytes())
    assert 2 == len(manifest["layers"])
    assert {one.digest, made.digest, made.config} == {
        path.name for path in (made.layout / "blobs/sha256").iterdir()
    }
