from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from wheels import CODE, VENV, Draft, layer_of

from benchmarks import report
from benchmarks.chart import Panel, chart
from benchmarks.measure import Cost, measured
from benchmarks.results import Results, document, read
from benchmarks.wheelset import link_wheels, wheel_sets
from torchkiln.errors import EngineError
from torchkiln.lockfile import VariantLock
from torchkiln.store import Store
from torchkiln.wheel import read_wheel

ROOT = Path(__file__).parents[2]


def cost(wall: float) -> Cost:
    return Cost(wall=wall, cpu=wall * 2, memory=1000)


def measured_builds() -> Results:
    results = Results()
    for wall in (30.0, 20.0, 25.0):
        results.add("cpu", "kiln", "cold", cost(wall))
    results.add("cpu", "kiln", "small", cost(4.0))
    results.add("cpu", "plain", "cold", cost(75.0))
    results.add("cpu", "limit", "cold", cost(5.0))
    results.images["cpu", "kiln"] = {
        "compressed": 390_000_000,
        "unpacked": 1_200_000_000,
        "layers": 7,
        "pull": {"nothing": 0, "small": 150_000, "torch": 210_000_000},
    }
    return results


def body() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document(measured_builds(), "26.1.5"))
    return found


def test_results_hold_the_median_of_all_rounds_and_its_ratio_to_kilns() -> None:
    found = {(one["arm"], one["scenario"]): one for one in body()["costs"]}

    assert found["kiln", "cold"]["median"] == {"wall": 25.0, "cpu": 50.0, "memory": 1000}
    assert [30.0, 20.0, 25.0] == [run["wall"] for run in found["kiln", "cold"]["runs"]]
    assert found["plain", "cold"]["ratio"] == 3.0
    assert found["limit", "cold"]["ratio"] == 0.2


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(document(measured_builds(), "26.1.5"))

    assert measured_builds() == read(path)


def test_tables_show_medians_and_leave_empty_what_was_not_measured() -> None:
    lines = report.summary(body()).splitlines()

    assert "| `cpu` | `./kiln build` | 25.0 s |  | 4.0 s | 390 MB | 0.1 MB |" == lines[2]
    assert "| `cpu` | `pip install` in one `RUN` | 75.0 s |  |  |  |  |" == lines[3]
    assert lines[4].startswith("| `cpu` | inflate, hash and gzip alone | 5.0 s |")


def test_full_table_says_how_often_each_builder_ran() -> None:
    text = report.tables(body())

    assert "Rounds: 3 of kiln; 1 of plain, limit." in text


def test_chart_gives_the_largest_value_the_longest_bar_and_none_no_bar() -> None:
    svg = chart("image", ["a", "b & c", "d"], [Panel(title="s", values=[1.0, 4.0, None])])

    assert ["35", "140"] == re.findall(r'<rect [^>]*width="(\d+)"', svg)
    assert "b &amp; c" in svg


def test_committed_tables_and_pictures_are_those_of_the_results() -> None:
    for path, text in report.documents(ROOT).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, path


def test_cost_is_the_commands_own(tmp_path: Path) -> None:
    script = "import time; held = bytearray(b'x') * 200_000_000; time.sleep(0.4)"

    found = measured([sys.executable, "-c", script], os.environ, tmp_path)

    assert 0.4 < found.wall < 20
    assert 150_000_000 < found.memory


def test_command_that_fails_is_an_error_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="it broke"):
        measured([sys.executable, "-c", "raise SystemExit('it broke')"], os.environ, tmp_path)


@pytest.fixture
def drafts() -> tuple[Draft, ...]:
    members = {"{}/__init__.py": CODE, "{}/other.py": b"x = 1\n"}
    return tuple(
        Draft(name=name, members={path.format(name): data for path, data in members.items()})
        for name in ("numpy", "packaging", "torch")
    )


@pytest.fixture
def stored(tmp_path: Path, drafts: tuple[Draft, ...]) -> tuple[VariantLock, Store]:
    store = Store(tmp_path / "store")
    wheels = []
    for draft in drafts:
        data = draft.pack()
        store.put(data)
        wheels.append(draft.locked(data))
    return VariantLock(variant="cpu", inputs="", python="3.11", wheels=tuple(wheels)), store


def test_each_set_rebuilds_one_more_wheel(
    tmp_path: Path, stored: tuple[VariantLock, Store]
) -> None:
    sets = wheel_sets(*stored, tmp_path)

    assert ["first", "small", "torch"] == [one.name for one in sets]
    first, small, torch = ({wheel.name: wheel.sha256 for wheel in one.lock.wheels} for one in sets)
    assert ["packaging"] == [name for name in first if first[name] != small[name]]
    assert ["torch"] == [name for name in first if small[name] != torch[name]]


def test_rebuilt_wheel_is_a_sound_one_that_differs_in_one_module(
    tmp_path: Path, stored: tuple[VariantLock, Store]
) -> None:
    lock, store = stored
    wanted = wheel_sets(lock, store, tmp_path)[-1].lock.wheel("torch")

    found = read_wheel(store.blob(wanted.sha256), wanted, VENV)  # refuses a RECORD that is wrong
    layer_of(tmp_path, found)

    with zipfile.ZipFile(store.blob(lock.wheel("torch").sha256)) as old:
        before = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(store.blob(wanted.sha256)) as new:
        after = {name: new.read(name) for name in new.namelist()}
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"torch/__init__.py", "torch-1.0.dist-info/RECORD"}
    compile(after["torch/__init__.py"], "torch", "exec")


def test_wheels_are_given_under_their_names_and_none_from_before(
    tmp_path: Path, stored: tuple[VariantLock, Store]
) -> None:
    lock, store = stored
    folder = tmp_path / "wheels"
    link_wheels(lock.wheels, store, folder)

    link_wheels(lock.wheels[:1], store, folder)

    assert [lock.wheels[0].file] == [path.name for path in folder.iterdir()]
