"""Building several variants: which, with how much room, and what a failure does to the others.

The builds themselves stand in here; tests/build has real ones.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from torchkiln import build_all, pipeline, reports
from torchkiln.commands import BuildOptions
from torchkiln.errors import BuildError, CatalogError, FetchError, HostError
from torchkiln.host import Space
from torchkiln.image import Image
from torchkiln.layer import Layer
from torchkiln.pipeline import BuildReport, Project
from torchkiln.store import Store

if TYPE_CHECKING:
    from torchkiln.catalog import Variant

ROOT = Path(__file__).parents[2]
LOCKED = ["cpu", "cu117", "cu121", "cu124", "cu126", "cu128", "cu130", "cu132"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = pipeline.open_project(ROOT)
    return replace(project, store=Store(tmp_path / "store"))


def report(variant: Variant) -> BuildReport:
    layer = Layer(name="x", diff_id="1" * 64, digest="2" * 64, size=5_000_000, unpacked=9, codec="")
    image = Image(
        variant=variant.id,
        reference=f"torchkiln:{variant.id}",
        digest="3" * 64,
        config="4" * 64,
        layout=Path("/layout"),
        layers=(layer,),
        environment={},
    )
    return BuildReport(image=image, folder=Path("/reports"), seconds={}, smoke=None)


def ids(variants: tuple[Variant, ...]) -> list[str]:
    return [one.id for one in variants]


def test_all_are_those_with_a_lock_and_the_others_are_named(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ids(build_all.choose(project)) == LOCKED
    told = capsys.readouterr().err
    assert "`cu118` is left out, it is not locked: ./kiln lock --cuda 118" in told
    assert "`cu129` is left out" in told


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("cu12*", ["cu121", "cu124", "cu126", "cu128"]), ("cpu", ["cpu"]), ("cu13[02]", LOCKED[-2:])],
)
def test_a_pattern_chooses_among_them(project: Project, pattern: str, expected: list[str]) -> None:
    assert ids(build_all.choose(project, pattern)) == expected


@pytest.mark.parametrize("pattern", ["cu118", "rocm*"])
def test_a_pattern_for_nothing_that_can_be_built_is_a_mistake(
    project: Project, pattern: str
) -> None:
    with pytest.raises(CatalogError, match="no locked variant fits"):
        build_all.choose(project, pattern)


def test_what_variants_share_needs_room_once(project: Project) -> None:
    cpu, cu117, *_ = build_all.choose(project)
    both = build_all.room(project, [cpu, cu117], jobs=1)
    apart = [build_all.room(project, [one], jobs=1) for one in (cpu, cu117)]

    # The base and, of both the same, pip and others.
    assert both.fetch < sum(one.fetch for one in apart)
    assert both.layers == sum(one.layers for one in apart)
    # Unpacked images come one after the other, or beside one another.
    assert both.trees == max(one.trees for one in apart)
    assert build_all.room(project, [cpu, cu117], jobs=2).trees == sum(one.trees for one in apart)


def test_too_little_room_is_told_before_anything_is_done(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torchkiln.commands.build", lambda *_: pytest.fail("a build began"))
    monkeypatch.setattr("torchkiln.host.Space", lambda **given: Space(**given | {"size": 1 << 60}))
    with pytest.raises(HostError, match="too little disk space"):
        build_all.build_all(project, build_all.choose(project), BuildOptions(), 1)

    assert "8 variants: " in capsys.readouterr().err


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_failure_does_not_stop_the_others_and_the_worst_is_the_exit_code(
    project: Project, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    errors = {"cu121": FetchError("no wheel"), "cu126": BuildError("no layer", "why", "do this")}
    threads = set()

    def build(own: Project, variant: Variant, _: BuildOptions) -> BuildReport:
        threads.add(threading.get_ident())
        assert own.store.private is not None
        if variant.id in errors:
            raise errors[variant.id]
        return report(variant)

    monkeypatch.setattr("torchkiln.commands.build", build)
    monkeypatch.setattr("torchkiln.host.space_faults", lambda _: [])
    outcomes = build_all.build_all(project, build_all.choose(project), BuildOptions(), jobs)

    assert [one.variant.id for one in outcomes] == LOCKED
    assert {one.variant.id: one.error for one in outcomes if one.error} == errors
    assert build_all.exit_code(outcomes) == BuildError.exit_code
    assert (threads == {threading.get_ident()}) == (jobs == 1)
    table = reports.built_all(outcomes)
    assert "6 built, 2 failed" in table
    assert f"failed ({FetchError.exit_code})" in table
    rows = {row["variant"]: row for row in reports.built_all_as_json(outcomes)}
    assert rows["cu126"]["error"] == {
        "exit_code": 16,
        "what": "no layer",
        "why": "why",
        "hint": "do this",
    }
    assert rows["cpu"]["error"] is None
    assert rows["cpu"]["build"]["digest"] == f"sha256:{'3' * 64}"


def test_nothing_that_failed_is_no_error() -> None:
    assert build_all.exit_code([]) == 0


def test_each_line_says_which_variant_it_is_of(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(_: Project, variant: Variant, __: BuildOptions) -> BuildReport:
        if variant.id == "cpu":
            message = "no"
            raise BuildError(message, "because", "do")
        return report(variant)

    monkeypatch.setattr("torchkiln.commands.build", build)
    monkeypatch.setattr("torchkiln.host.space_faults", lambda _: [])
    build_all.build_all(project, build_all.choose(project), BuildOptions(), 1)
    lines = capsys.readouterr().err.splitlines()

    assert "[cpu] error: no" in lines
    assert "[cpu] hint: do" in lines
    assert "[cu117] done" in lines
