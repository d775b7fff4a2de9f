from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.sharing import HERE, KEPT, insert, read, table, to_pull, together

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = {
    "cpu": {"base": 50_000_000, "a": 300_000_000},
    "cu1": {"base": 50_000_000, "b": 2 * 10**9},
}


def test_a_layer_that_is_there_is_not_pulled_and_lies_once() -> None:
    assert to_pull(IMAGES["cpu"], IMAGES["cu1"]) == 2 * 10**9
    assert to_pull(IMAGES["cu1"], IMAGES["cpu"]) == 300_000_000
    assert to_pull(IMAGES["cpu"], IMAGES["cpu"]) == 0
    assert together(IMAGES) == 2_350_000_000


def test_the_table_has_a_row_for_each_image_that_is_there() -> None:
    lines = table(IMAGES).splitlines()

    assert lines[0].startswith("2 images have 2,400 MB each by itself, 2,350 MB together, 2.1 %")
    assert lines[-3:] == [
        "| nothing | 350 | 2,050 |",
        "| `cpu` | 0 | 2,000 |",
        "| `cu1` | 300 | 0 |",
    ]


def test_what_failed_to_build_is_left_out(tmp_path: Path) -> None:
    layers = [{"digest": "sha256:1", "size": 7, "name": "x"}]
    built = {"variant": "cpu", "build": {"variant": "cpu", "layers": layers}}
    path = tmp_path / "all.json"
    path.write_text(json.dumps([built, {"variant": "cu117", "build": None}]))

    assert read([path]) == {"cpu": {"sha256:1": 7}}


def test_the_committed_table_is_that_of_the_committed_layers() -> None:
    readme = (HERE / "README.md").read_text("utf-8")

    assert insert(readme, table(json.loads(KEPT.read_text("utf-8")))) == readme
