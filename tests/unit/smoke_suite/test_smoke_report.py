import json

import pytest
from image import Image
from report import all_passed, curves_of, headline, report, summary, table
from suite import Curve, Outcome, Result, failed, passed, skipped
from trend import Trend

IMAGE = Image(variant="cpu", torch="2.13.0", cuda=None, wheels=())
FALLING = Trend(s=-4950, tau=-1.0, z=-14.7, p=1e-48)
LEVEL = Trend(s=0, tau=0.0, z=0.0, p=0.5)


def result(name: str, outcome: Outcome) -> Result:
    """Return a result that took a second and a half."""
    return Result(id=name, outcome=outcome, seconds=1.5)


def curve(trend: Trend) -> Curve:
    """Return a short curve with that trend."""
    return Curve(losses=(0.7, 0.6), excess=(0.0, -0.1), trend=trend)


PASSED = result("a", passed("2 as locked"))
SKIPPED = result("b", skipped("no device", "no GPU here"))
FAILED = result("c", failed("off by 1", "above 0"))


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([PASSED], True),
        ([PASSED, SKIPPED], True),
        ([PASSED, FAILED, SKIPPED], False),
        ([], False),
    ],
)
def test_the_suite_passes_if_checks_ran_and_none_failed(
    *, results: list[Result], verdict: bool
) -> None:
    assert verdict == all_passed(results)


def test_the_report_holds_what_its_schema_says() -> None:
    learns = result("training-learns", passed("", curves={"learnable": curve(FALLING)}))
    control = result("training-control", passed("", curves={"random": curve(LEVEL)}))
    versions = {"torch": "2.13.0", "python": "3.11.2", "numpy": "2.4.6", "device": "cpu"}

    document = json.loads(json.dumps(report(IMAGE, [learns, control], versions), allow_nan=False))

    assert document["schema"] == 1
    assert document["variant"] == "cpu"
    assert versions == {name: document[name] for name in versions}
    assert document["passed"] is True
    assert document["losses"] == {"learnable": [0.7, 0.6], "random": [0.7, 0.6]}
    assert document["trend"]["learnable"]["falling"] is True
    assert document["trend"]["random"] == {
        "s": 0,
        "tau": 0.0,
        "z": 0.0,
        "p": 0.5,
        "confidence": 0.5,
        "falling": False,
    }


def test_each_check_has_its_entry() -> None:
    document = report(IMAGE, [FAILED], {})
    expected = {
        "id": "c",
        "verdict": "failed",
        "value": "off by 1",
        "detail": "above 0",
        "seconds": 1.5,
    }

    assert [expected] == document["checks"]
    assert document["passed"] is False


def test_the_table_has_a_line_for_each_check_and_the_reasons_below() -> None:
    twin = result("d", skipped("no device", "no GPU here"))
    expected = [
        "check  verdict  value        seconds",
        "a      passed   2 as locked     1.50",
        "b      skipped  no device       1.50",
        "c      failed   off by 1        1.50",
        "d      skipped  no device       1.50",
        "",
        "skipped b, d: no GPU here",
        "failed c: above 0",
        "",
        "1 passed, 1 failed, 2 skipped in 6.0 s",
    ]

    assert expected == table([PASSED, SKIPPED, FAILED, twin]).splitlines()


def test_a_table_without_reasons_has_no_gap_for_them() -> None:
    assert table([PASSED]).splitlines()[2:] == ["", "1 passed in 1.5 s"]


def test_no_check_is_told_as_such() -> None:
    assert summary([]) == "no check ran in 0.0 s"


@pytest.mark.parametrize(
    ("learnable", "control", "expected"),
    [
        (FALLING, LEVEL, "cpu: the model learns (confidence over 99.99 %), the control does not"),
        (LEVEL, LEVEL, "cpu: the model does not learn, the control does not"),
        (
            FALLING,
            FALLING,
            "cpu: the model learns (confidence over 99.99 %), the control learns, too",
        ),
    ],
)
def test_the_pictures_title_is_the_verdict(learnable: Trend, control: Trend, expected: str) -> None:
    curves = {"learnable": curve(learnable), "random": curve(control)}

    assert expected == headline("cpu", curves)


def test_curves_are_those_that_the_checks_left() -> None:
    trained = result("training-learns", passed("", curves={"learnable": curve(FALLING)}))

    assert curves_of([PASSED, trained]) == {"learnable": curve(FALLING)}
