from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from torchkiln.base import build_base
from torchkiln.errors import StoreError
from torchkiln.files import demand_links, write_atomic
from torchkiln.lockfile import BaseLock
from torchkiln.store import Store

if TYPE_CHECKING:
    from pathlib import Path


def test_text_and_bytes_are_written_and_folders_made(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a/b/text", "é\n")
    write_atomic(tmp_path / "a/b/bytes", b"\0\xff")

    assert ["é\n".encode(), b"\0\xff"] == [
        (tmp_path / "a/b" / name).read_bytes() for name in ("text", "bytes")
    ]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_file_is_for_all_to_read_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "file", "x")
    finally:
        os.umask(before)

    assert 0o644 == (tmp_path / "file").stat().st_mode & 0o7777


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_leaves_the_old_bytes_and_nothing_beside_them(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr("pathlib.Path.replace" if step == "replace" else "os.fsync", fail)

    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "file", "new")
    assert "old" == (tmp_path / "file").read_text()
    assert [tmp_path / "file"] == list(tmp_path.iterdir())


def test_folder_in_the_way_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()

    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "file", "x")
    assert [tmp_path / "file"] == list(tmp_path.iterdir())


def test_reader_sees_whole_files_while_others_are_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = [letter * 200_000 for letter in "ab"]
    write_atomic(path, texts[0])
    done = threading.Event()

    def write() -> None:
        for number in range(40):
            write_atomic(path, texts[number % 2])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_text())
    thread.join()

    assert set(texts) >= seen


def test_dpkg_is_not_started_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its old status by one, and has many words for the failure."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    lock = BaseLock(release="bookworm", inputs="", date="2026-01-01T00:00:00Z", debs=())
    with pytest.raises(StoreError, match=str(tmp_path)) as caught:
        build_base(Store(tmp_path), lock)

    assert "its file system does not support hard links, which dpkg needs" == caught.value.why
    assert "export TORCHKILN_HOME=/path" in caught.value.hint


def test_asking_for_hard_links_leaves_nothing(tmp_path: Path) -> None:
    demand_links(tmp_path, "dpkg needs")

    assert [] == list(tmp_path.iterdir())
