from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchkiln import ci, committed, pipeline

ROOT = Path(__file__).parents[2]
PROJECT = pipeline.open_project(ROOT)
FILES = {
    name: text
    for name, text in committed.rendered(PROJECT).items()
    if name.startswith(".github/workflows/")
}


def workflow(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILES[f".github/workflows/{name}.yml"])
    return loaded


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{name}:{job}", body)
        for name in ("ci", "images", "locks")
        for job, body in workflow(name)["jobs"].items()
    ]


def test_the_matrix_has_the_base_first_and_every_locked_variant_after_it() -> None:
    found = ci.as_json(committed.ci_matrix(PROJECT))
    locked = [one.id for one in pipeline.locked_variants(PROJECT)]

    assert list(found) == ["base", "variants", "gpu"]
    assert [row["id"] for row in found["base"]["include"]] == ["base"]
    assert [row["id"] for row in found["variants"]["include"]] == locked
    assert [row["id"] for row in found["gpu"]["include"]] == [one for one in locked if one != "cpu"]
    assert json.loads(json.dumps(found))


def test_each_image_says_its_disk_its_runner_and_its_driver() -> None:
    rows = {row.id: row for row in committed.ci_matrix(PROJECT).variants}

    assert [rows[one].driver for one in ("cpu", "cu117", "cu128", "cu132")] == [
        "",
        "450.80.02",
        "525.60.13",
        "580",
    ]
    assert rows["cpu"].disk < ci.RUNNER_DISK < rows["cu117"].disk < rows["cu128"].disk
    assert [rows[one].make_room for one in ("cpu", "cu117")] == [False, True]
    assert rows["cpu"].gpu_runner == ()
    assert "self-hosted" in rows["cu117"].gpu_runner


def test_the_workflows_build_what_the_matrix_has() -> None:
    rows = committed.ci_matrix(PROJECT).variants
    image = workflow("images")["jobs"]["image"]["strategy"]["matrix"]["include"]
    gpu = workflow("images")["jobs"]["gpu"]["strategy"]["matrix"]["include"]

    assert image == [
        {"id": row.id, "flag": row.flag, "runner": row.runner, "make_room": row.make_room}
        for row in rows
    ]
    assert gpu == [
        {"id": row.id, "flag": row.flag, "runner": list(row.gpu_runner)}
        for row in rows
        if row.gpu_runner
    ]


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_workflow_has_a_permission_that_no_job_asks_for(name: str) -> None:
    assert yaml.safe_load(FILES[name])["permissions"] == {}


def test_every_action_is_named_by_a_commit() -> None:
    uses = re.findall(r"uses: (.+)", "".join(FILES.values()))

    assert uses
    assert [one for one in uses if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", one)] == []


@pytest.mark.parametrize(("name", "job"), jobs())
def test_no_script_holds_an_expression(name: str, job: dict[str, Any]) -> None:
    """GitHub puts an expression's text into the script: whoever chooses it runs code."""
    assert [step["run"] for step in job["steps"] if "${{" in step.get("run", "")] == [], name


def test_only_main_publishes_and_only_main_reaches_a_machine_that_stays() -> None:
    steps = workflow("images")["jobs"]["image"]["steps"]
    publishing = [
        step for step in steps if {"Publish"} & {step.get("name")} or "attest" in str(step)
    ]

    assert len(publishing) == 2
    assert {step["if"] for step in publishing} == {"github.ref == 'refs/heads/main'"}
    assert "github.ref == 'refs/heads/main'" in workflow("images")["jobs"]["gpu"]["if"]
