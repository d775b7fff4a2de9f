"""Every format, from a small image in a store of its own."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
import time
from typing import TYPE_CHECKING

import pytest
from image_archives import image, names_and_blobs

from torchkiln.errors import ExportError
from torchkiln.export.formats import FORMATS, Source, export, find_format
from torchkiln.store import Store

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(name for name, one in FORMATS.items() if one.to_stream)


def source(root: Path) -> Source:
    store = Store(root)
    return Source(store=store, image=image(store, "first", "second"))


def exported(place: Path, name: str) -> bytes:
    place.mkdir()
    export(source(place / "store"), name, str(place / "out"))
    assert sorted(path.name for path in place.iterdir()) == ["out", "store"]
    return (place / "out").read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_an_export_is_the_same_bytes_in_every_place_zone_and_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    first = exported(tmp_path / "one", name)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    time.tzset()
    before = os.umask(0o077)
    try:
        assert first == exported(tmp_path / "two", name)
    finally:
        os.umask(before)


def test_two_formats_are_two_files(tmp_path: Path) -> None:
    found = {hashlib.sha256(exported(tmp_path / name, name)).digest() for name in FILES}

    assert len(found) == len(FILES)


def test_a_sif_holds_the_squashfs_and_can_be_run(tmp_path: Path) -> None:
    sif = exported(tmp_path / "one", "sif")
    start, size = struct.unpack_from("<2q", sif, 4096 + 585 + 17)

    assert sif[start : start + size] == exported(tmp_path / "two", "squashfs")
    assert os.access(tmp_path / "one/out", os.X_OK)
    assert not os.access(tmp_path / "two/out", os.X_OK)


def test_docker_archives_hold_what_docker_reads_and_nothing_of_oci(tmp_path: Path) -> None:
    data = exported(tmp_path / "one", "docker-archive")
    names, layers, files, _ = names_and_blobs(data)

    assert names == ["torchkiln:cpu"]
    made = source(tmp_path / "again").image
    assert files == {"manifest.json", f"blobs/sha256/{made.config}", *layers}
    assert len(layers) == 2


def test_oci_archives_hold_both(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(exported(tmp_path / "one", "oci-archive"))) as archive:
        assert {"oci-layout", "index.json", "manifest.json"} < set(archive.getnames())


def test_a_folder_has_the_images_files_and_shares_none_with_the_store(tmp_path: Path) -> None:
    export(source(tmp_path / "store"), "rootfs", str(tmp_path / "out"))

    assert (tmp_path / "out/first").read_bytes() == b"first" * 1000
    assert "PATH=/usr/bin" in (tmp_path / "out/etc/environment").read_text()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in files} == {1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


@pytest.mark.parametrize("name", FORMATS)
def test_only_what_needs_no_second_look_goes_to_stdout(name: str) -> None:
    if name in {"oci-archive", "docker-archive"}:
        find_format(name, "-")
    else:
        with pytest.raises(ExportError, match="cannot be written to stdout") as caught:
            find_format(name, "-")
        assert "oci-archive, docker-archive" in caught.value.why


def test_a_format_that_there_is_none_of_is_refused_with_the_nearest() -> None:
    with pytest.raises(ExportError, match="did you mean `squashfs`") as caught:
        find_format("squash", "out")

    assert all(name in caught.value.why for name in FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_progress_counts_what_it_said_it_would(tmp_path: Path, name: str) -> None:
    """Of a file system, up to the tar's own blocks."""
    told: list[int] = []
    made = source(tmp_path / "store")
    counting = Source(store=made.store, image=made.image, advance=told.append)
    one = FORMATS[name]
    if one.to_folder:
        (tmp_path / "out").mkdir()
        one.to_folder(counting, tmp_path / "out")
    elif one.to_stream:
        with (tmp_path / "out").open("wb") as stream:
            one.to_stream(counting, stream)

    assert 0 < sum(told)
    assert abs(sum(told) - one.reads(made.image)) < 20_480
