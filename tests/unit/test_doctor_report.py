from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from torchkiln.doctor import report as reports
from torchkiln.doctor.__main__ import main
from torchkiln.doctor.checks import (
    REGISTRY,
    Check,
    Outcome,
    check,
    load_checks,
    ok,
    problem,
    warning,
)
from torchkiln.doctor.facts import Facts, Subject, gather
from torchkiln.doctor.guard import Finding, run_checks
from torchkiln.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = json.loads((Path(reports.__file__).parent / "report.schema.json").read_text())
NOTHING = Facts(
    subject=Subject(environ={"HOME": "/home/alice"}, python=None),
    machine=Machine(driver=None, gpus=()),
    container="",
    environment=None,
    torch=None,
)
BAD = problem("/home/alice/x is bad", cause="it breaks", remedy="rm /home/alice/x", link="a/b#1")
DOUBTFUL = warning("small", cause="it may break", remedy="true")
CRASHED = Outcome(verdict="crashed", evidence="ended by SIGSEGV")


def finding(name: str, outcome: Outcome, rank: int = 50) -> Finding:
    entry = Check(id=name, area="machine", rank=rank, function=lambda _: outcome)
    return Finding(check=entry, outcome=outcome, seconds=0.1)


@pytest.mark.parametrize(
    ("outcomes", "plain", "strict"),
    [
        ([ok("fine")], 0, 0),
        ([ok("fine"), DOUBTFUL], 0, 1),
        ([DOUBTFUL, CRASHED], 2, 1),
        ([CRASHED, BAD], 1, 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst(
    outcomes: list[Outcome], plain: int, strict: int
) -> None:
    findings = [finding(str(number), one) for number, one in enumerate(outcomes)]
    assert reports.report(NOTHING, findings).exit_code == plain
    assert reports.report(NOTHING, findings, strict=True).exit_code == strict


def test_the_worst_and_the_nearest_to_the_root_is_named_first() -> None:
    found = [
        finding("fine", ok("fine"), 1),
        finding("doubtful", DOUBTFUL, 2),
        finding("symptom", BAD, 69),
        finding("root", BAD, 10),
    ]
    named = [one.check.id for one in reports.diagnosis(found)]
    assert named == ["root", "symptom", "doubtful", "fine"]


def test_people_see_what_is_wrong_with_its_cause_and_remedy_and_no_names() -> None:
    made = reports.report(NOTHING, [finding("bad", BAD), finding("fine", ok("all well"))])
    assert reports.text(made).splitlines() == [
        "problem: bad (machine)",
        "  ~/x is bad",
        "  why:  it breaks",
        "  see:  a/b#1",
        '  mend: rm "$HOME"/x',
        "",
        "1 problem (2 checks, 0 skipped)",
    ]
    assert "all well" in reports.text(made, verbose=True)


def test_json_is_as_its_schema_says() -> None:
    outcomes = [BAD, DOUBTFUL, CRASHED, ok("fine")]
    findings = [finding(str(number), one) for number, one in enumerate(outcomes)]
    fits(json.loads(json.dumps(reports.as_json(reports.report(NOTHING, findings)))), SCHEMA)


def fits(value: object, schema: dict[str, Any]) -> None:
    """Check what our schema uses of JSON Schema."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}
    kinds["number"] = (int, float)  # type: ignore[assignment]
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(isinstance(value, kinds[name]) for name in names), (value, schema)
    assert value in schema.get("enum", [value])
    assert value == schema.get("const", value)
    if isinstance(value, dict):
        assert set(value) == set(schema["required"]) == set(schema["properties"])
        for key, inner in schema["properties"].items():
            fits(value[key], inner)
    for item in value if isinstance(value, list) else []:
        fits(item, schema["items"])


@pytest.fixture
def _registry() -> Iterator[None]:
    """Take away what a test registers."""
    before = list(REGISTRY)
    yield
    REGISTRY[:] = before


@pytest.mark.usefixtures("_registry")
def test_a_check_that_crashes_hides_no_other() -> None:
    def breaks(_: Facts) -> Outcome:
        raise OSError("gone")  # noqa: EM101

    checks = [
        Check(id="one", area="machine", rank=1, function=breaks),
        Check(id="two", area="machine", rank=2, function=lambda _: ok("fine")),
        Check(id="three", area="machine", rank=3, function=lambda _: "words"),  # type: ignore[arg-type, return-value]
    ]
    found = run_checks(checks, NOTHING, lambda _: None)
    assert [one.outcome.verdict for one in found] == ["crashed", "ok", "crashed"]
    assert found[0].outcome.evidence.startswith("OSError: gone")
    assert found[2].outcome.evidence == "it answered with str"


def test_a_check_of_last_resort_is_silent_where_another_has_the_cause() -> None:
    last = Check(id="last", area="environment", rank=69, function=lambda _: BAD, last=True)
    first = Check(id="first", area="environment", rank=1, function=lambda _: BAD)
    alone = run_checks([last], NOTHING, lambda _: None)
    both = run_checks([first, last], NOTHING, lambda _: None)
    assert [one.outcome.verdict for one in alone] == ["problem"]
    assert [one.outcome.verdict for one in both] == ["problem", "skipped"]


@pytest.mark.usefixtures("_registry")
def test_two_checks_of_one_name_are_refused() -> None:
    check("twice", area="machine", rank=1)(lambda _: ok("fine"))
    with pytest.raises(ValueError, match="two checks are named `twice`"):
        check("twice", area="machine", rank=1)(lambda _: ok("fine"))


def test_every_check_says_what_it_looks_for_in_a_line() -> None:
    for name, _, words in reports.listed(load_checks()):
        assert words.endswith("."), name


def test_the_list_in_the_documentation_is_the_one_that_the_doctor_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--list"]) == 0
    text = (Path(reports.__file__).parent / "README.md").read_text()
    assert f"```\n{capsys.readouterr().out}```\n" in text


def test_facts_that_cannot_be_gathered_are_named(tmp_path: Path) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_bytes(b"\xff\xfe")  # no text
    subject = Subject(environ={"PATH": ""}, python=None, root=tmp_path)
    facts = gather(subject)
    assert "machine: UnicodeDecodeError" in "; ".join(
        f"{name}: {why}" for name, why in facts.failures.items()
    )
    found = {one.check.id: one.outcome for one in run_checks(load_checks(), facts, lambda _: None)}
    assert found["facts"].verdict == "crashed"
