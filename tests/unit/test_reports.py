from __future__ import annotations

import json
from pathlib import Path
from typing import IO

import pytest

from torchkiln.fetch import FetchReport
from torchkiln.image import Image
from torchkiln.layer import Layer
from torchkiln.pipeline import BuildReport
from torchkiln.reports import as_json, built, fetched, megabytes, table, write_file
from torchkiln.smoke import SmokeReport

LAYERS = (
    Layer(name="debian", diff_id="d1", digest="b1", size=30_000_000, unpacked=90_000_000),
    Layer(name="torch-2.13.0", diff_id="d2", digest="b2", size=200_000_000, unpacked=711_000_000),
)


def report(smoke: SmokeReport | None = None) -> BuildReport:
    image = Image(
        variant="cpu",
        reference="torchkiln:cpu",
        digest="abc",
        config="def",
        layout=Path("/store/images/cpu"),
        layers=LAYERS,
        environment={},
    )
    seconds = {"base": 12.34, "layers": 5.0}
    return BuildReport(image=image, folder=Path("/reports"), seconds=seconds, smoke=smoke)


def smoke(*, fresh: bool) -> SmokeReport:
    verdicts = {"training": "passed", "losses": "passed", "cuda-device": "skipped"}
    checks = [{"id": name, "verdict": verdict} for name, verdict in verdicts.items()]
    return SmokeReport(
        passed=True, folder=Path("/reports"), table="", document={"checks": checks}, fresh=fresh
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0.0 MB"), (49_999, "0.0 MB"), (408_900_000, "408.9 MB"), (1_234_567_890, "1,234.6 MB")],
)
def test_bytes_are_shown_in_megabytes(size: int, expected: str) -> None:
    assert expected == megabytes(size)


def test_fetch_is_one_line_with_count_size_time_and_rate() -> None:
    found = fetched(FetchReport(bytes_fetched=300_000_000, files=7, seconds=2.0))

    assert "fetched 7 files: 300.0 MB in 2.0 s, 150.0 MB/s" == found


def test_fetch_of_nothing_in_no_time_has_a_rate_of_zero() -> None:
    found = fetched(FetchReport(bytes_fetched=0, files=7, seconds=0.0))

    assert found.endswith("0.0 MB/s")


def test_build_shows_name_digest_layers_total_times_and_layout() -> None:
    lines = built(report()).splitlines()

    assert "torchkiln:cpu  sha256:abc" == lines[0]
    assert [
        "layer         compressed  unpacked",
        "debian           30.0 MB   90.0 MB",
        "torch-2.13.0    200.0 MB  711.0 MB",
        "total           230.0 MB  801.0 MB",
    ] == lines[2:6]
    assert "time: base 12.3 s, layers 5.0 s" in lines
    assert "layout: /store/images/cpu" == lines[-1]
    assert not [line for line in lines if line.startswith("smoke")]


@pytest.mark.parametrize(("fresh", "when"), [(True, ""), (False, " in an earlier run")])
def test_smoke_run_is_told_with_what_was_skipped_and_when_it_was(*, fresh: bool, when: str) -> None:
    lines = built(report(smoke(fresh=fresh))).splitlines()

    assert f"smoke: 2 checks passed{when}, skipped: cuda-device" in lines


def test_json_is_one_object_with_the_keys_that_machines_rely_on() -> None:
    found = json.loads(as_json(report(smoke(fresh=True))))

    assert {"variant", "reference", "digest", "layout", "layers", "seconds", "smoke"} <= set(found)
    assert "sha256:abc" == found["digest"]
    assert {
        "name": "debian",
        "diff_id": "sha256:d1",
        "digest": "sha256:b1",
        "size": 30_000_000,
        "unpacked": 90_000_000,
    } == found["layers"][0]


def test_table_aligns_names_left_and_numbers_right() -> None:
    assert ["name      n", "a         1", "longer  100"] == table(
        ("name", "n"), [("a", "1"), ("longer", "100")]
    )


def test_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    def write(stream: IO[bytes]) -> None:
        stream.write(b"half")
        assert not (tmp_path / "file").exists()
        stream.write(b"whole")

    write_file(tmp_path / "file", write)

    assert b"halfwhole" == (tmp_path / "file").read_bytes()
    assert [tmp_path / "file"] == list(tmp_path.iterdir())


def test_file_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    def write(stream: IO[bytes]) -> None:
        stream.write(b"new")

    (tmp_path / "file").write_bytes(b"old")
    with (tmp_path / "file").open("rb") as reader:
        write_file(tmp_path / "file", write)

        assert b"old" == reader.read()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_file_that_breaks_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    def write(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise error

    (tmp_path / "file").write_bytes(b"old")

    with pytest.raises(error):
        write_file(tmp_path / "file", write)
    assert [(tmp_path / "file", b"old")] == [
        (path, path.read_bytes()) for path in tmp_path.iterdir()
    ]
