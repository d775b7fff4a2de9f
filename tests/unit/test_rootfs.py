from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torchkiln.export.rootfs import write_rootfs
from torchkiln.layer import MTIME, Entry, complete

if TYPE_CHECKING:
    from pathlib import Path


ENTRIES = complete(
    [
        Entry.text("usr/bin/sh", b"#!", mode=0o755),
        Entry.text("etc/shadow", b"", mode=0o444),
        Entry.directory("locked", 0o555),
        Entry.directory("tmp", 0o1777),
        Entry.directory("root", 0o700),
        Entry.link("bin", "usr/bin"),
        Entry.link("nowhere", "/not/there"),
    ]
)


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.lstat().st_mode & 0o7777 for path in folder.rglob("*")
    }


def test_a_folder_holds_the_files_and_its_owner_may_write_all_of_them(tmp_path: Path) -> None:
    write_rootfs(tmp_path, ENTRIES)

    found = modes(tmp_path)
    assert found.keys() == {entry.path for entry in ENTRIES}
    assert (tmp_path / "bin/sh").read_bytes() == b"#!"
    assert (found["usr/bin/sh"], found["tmp"], found["root"]) == (0o755, 0o1777, 0o700)
    assert (found["etc/shadow"], found["locked"]) == (0o644, 0o755)


def test_modes_and_times_depend_on_no_umask_and_no_clock(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        (tmp_path / "one").mkdir()
        write_rootfs(tmp_path / "one", ENTRIES)
        os.umask(0)
        (tmp_path / "other").mkdir()
        write_rootfs(tmp_path / "other", ENTRIES)
    finally:
        os.umask(before)

    assert modes(tmp_path / "one") == modes(tmp_path / "other")
    for path in (tmp_path / "one", *(tmp_path / "one").rglob("*")):
        assert path.lstat().st_mtime == MTIME, path


def test_each_file_that_is_written_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    write_rootfs(tmp_path, ENTRIES, told.append)

    assert sum(told) == sum(entry.size for entry in ENTRIES)
