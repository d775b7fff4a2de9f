from __future__ import annotations

from typing import TYPE_CHECKING

from package_index import index, torch
from servers import serving, status

from torchkiln.pipconf import PipConfig
from torchkiln.reach import reach

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SILENT = "http://localhost:9/simple"  # the discard port: nothing listens


def locations(config: PipConfig, named: str | None = None) -> list[str]:
    """Return the locations of the sources that answer, the main index left out."""
    found = reach(config, named, {})
    extra = [*found.indexes[1:], *([found.named] if found.named else []), *found.pages]
    return [source.location for source in extra]


def test_sources_that_answer_are_kept(tmp_path: Path) -> None:
    with serving(index(torch("1", None))) as one, serving({}) as other:
        extra, named = f"{one.url}/simple", f"{other.url}/simple"  # 404: not this project
        config = PipConfig(index_url=SILENT, extra_index_urls=(extra,), find_links=(str(tmp_path),))

        assert locations(config, named) == [extra, named, str(tmp_path)]


def test_sources_that_do_not_answer_are_left_out_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "none"
    with serving({"/locked/torch/": status(403)}) as site:
        config = PipConfig(
            index_url=SILENT,
            extra_index_urls=(SILENT, f"{site.url}/locked"),
            find_links=(str(folder),),
        )

        assert locations(config, f"{SILENT}/named") == []

    warnings = capsys.readouterr().err.split("warning: ")[1:]
    assert {
        f"cannot fetch {SILENT}/named/torch/",
        f"cannot fetch {SILENT}/torch/",
        f"cannot fetch {site.url}/locked/torch/",
        f"cannot read {folder.as_uri()}",
    } == {warning.partition(": ")[0].strip() for warning in warnings}
    assert len(warnings) == 4


def test_the_main_index_is_never_left_out() -> None:
    (main,) = reach(PipConfig(index_url=SILENT), None, {}).indexes

    assert main.location == SILENT


def test_no_index_means_none() -> None:
    config = PipConfig(index_url=SILENT, extra_index_urls=(SILENT,), no_index=True)

    assert reach(config, None, {}).indexes == ()
