from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from torchkiln.errors import BuildError
from torchkiln.folder import tree_entries

if TYPE_CHECKING:
    from pathlib import Path


def modes(root: Path) -> dict[str, int]:
    return {entry.path: entry.mode for entry in tree_entries(root)}


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o4755, 0o755), (0o640, 0o644), (0o600, 0o644), (0o2775, 0o755)]
)
def test_a_file_is_readable_for_all_and_has_no_set_id_bit(
    tmp_path: Path, mode: int, expected: int
) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "x").chmod(mode)

    assert {"x": expected} == modes(tmp_path)


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("tmp", 0o1777, 0o1777),
        ("local", 0o2775, 0o755),
        ("secret", 0o700, 0o755),
        ("root", 0o755, 0o700),
    ],
)
def test_a_folder_is_open_to_all_or_a_shared_one_but_for_roots_home(
    tmp_path: Path, name: str, mode: int, expected: int
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name).chmod(mode)

    assert {name: expected} == modes(tmp_path)


def test_a_link_to_a_folder_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "bin").symlink_to("usr/bin")

    assert ["bin"] == [entry.path for entry in tree_entries(tmp_path) if entry.target == "usr/bin"]


def test_what_is_neither_file_nor_folder_nor_link_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(BuildError, match="/pipe"):
        list(tree_entries(tmp_path))
