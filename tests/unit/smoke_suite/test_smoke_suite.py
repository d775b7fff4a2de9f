import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import suite
from image import Image
from suite import Check, Outcome, check, failed, load_checks, passed, run_checks, timed

CPU = Image(variant="cpu", torch="2.13.0", cuda=None, wheels=())
CUDA = Image(variant="cu117", torch="2.0.1", cuda="11.7", wheels=())


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """Give each test an empty registry."""
    empty: list[Check] = []
    monkeypatch.setattr(suite, "REGISTRY", empty)
    return empty


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that modules are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)


def verdicts(image: Image) -> dict[str, str]:
    """Return the verdict of each registered check that ran."""
    return {r.id: r.outcome.verdict for r in run_checks(image, announce=lambda _: None)}


def test_checks_run_in_the_order_of_their_registration() -> None:
    check("b")(lambda _: passed("1"))
    check("a")(lambda _: failed("2", "too many"))

    assert list(verdicts(CPU).items()) == [("b", "passed"), ("a", "failed")]


def test_each_check_is_announced_before_it_runs() -> None:
    heard: list[str] = []
    check("a")(lambda _: passed(" ".join(heard)))

    (result,) = run_checks(CPU, announce=heard.append)

    assert result.outcome.value == "a"


def test_a_check_that_does_not_apply_leaves_no_result() -> None:
    check("cuda", applies=Image.promises_cuda)(lambda _: passed(""))

    assert verdicts(CPU) == {}
    assert verdicts(CUDA) == {"cuda": "passed"}


def test_a_crash_is_a_failure_and_stops_no_other_check() -> None:
    @check("crashing")
    def crashing(_: Image) -> Outcome:
        message = "no such kernel\nand much more"
        raise RuntimeError(message)

    check("after")(lambda _: passed(""))

    assert verdicts(CPU) == {"crashing": "failed", "after": "passed"}


def test_a_crash_is_told_in_one_line_with_its_place() -> None:
    def crashing() -> Outcome:
        message = "no such kernel\nand much more"
        raise RuntimeError(message)

    outcome = timed("crashing", crashing).outcome

    assert outcome.detail.startswith("RuntimeError: no such kernel (test_smoke_suite.py:")
    assert "\n" not in outcome.detail


def test_an_error_without_text_is_told_as_well() -> None:
    def crashing() -> Outcome:
        raise AssertionError

    assert "AssertionError: no message" in timed("crashing", crashing).outcome.detail


def test_two_checks_of_one_name_are_refused() -> None:
    check("same")(lambda _: passed(""))

    with pytest.raises(ValueError, match="two checks are named `same`"):
        check("same")(lambda _: passed(""))


def test_a_dropped_in_file_brings_its_checks(folder: Path, registry: list[Check]) -> None:
    text = "from suite import check, passed\ncheck('dropped')(lambda _: passed(''))\n"
    (folder / "check_dropped.py").write_text(text, encoding="utf-8")

    assert load_checks(folder) == []
    assert [entry.id for entry in registry] == ["dropped"]


def test_a_file_that_cannot_be_imported_is_a_failed_result(folder: Path) -> None:
    (folder / "check_absent.py").write_text("import no_such_torch\n", encoding="utf-8")

    (result,) = load_checks(folder)

    assert result.id == "check_absent"
    assert result.outcome.verdict == "failed"
    assert "No module named 'no_such_torch' (check_absent.py:1)" in result.outcome.detail
