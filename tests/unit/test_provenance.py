from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import torchkiln
from torchkiln.errors import ArchiveError
from torchkiln.proof.provenance import BUILD_TYPE, built_by, differing, project_from

ROOT = Path(__file__).parents[2]
FILES = {
    "images/variants.yaml": "base:\n",
    "envs/cpu/lock.json": "{}\n",
    "envs/debian-bookworm.lock.json": "{}\n",
}


def statement(
    files: dict[str, str], variant: str = "cpu", build_type: str = BUILD_TYPE
) -> dict[str, Any]:
    parameters = {"variant": variant, "files": files}
    definition = {
        "buildType": build_type,
        "externalParameters": parameters,
        "resolvedDependencies": [],
    }
    return {"predicate": {"buildDefinition": definition}}


def test_a_project_has_the_statements_files_and_the_smoke_suite(tmp_path: Path) -> None:
    project_from(statement(FILES), tmp_path)

    assert FILES == {name: (tmp_path / name).read_text() for name in FILES}
    assert (tmp_path / "smoke/suite.py").is_file()


@pytest.mark.parametrize(
    "hostile",
    [
        statement({**FILES, "../outside": ""}),
        statement({"images/variants.yaml": "", "envs/cpu/lock.json": "", "/etc/passwd": ""}),
        statement(
            {
                "images/variants.yaml": "",
                "envs/cpu/lock.json": "",
                "envs/debian-../../x.lock.json": "",
            }
        ),
        statement(
            {
                "images/variants.yaml": "",
                "envs/../../x/lock.json": "",
                "envs/debian-bookworm.lock.json": "",
            },
            variant="../../x",
        ),
        statement(FILES, build_type="https://slsa.dev/container-based-build/v0.1"),
        statement({}),
        statement({**FILES, "images/variants.yaml": {"base": 1}}),  # type: ignore[dict-item]
        statement(FILES, variant=["cpu"]),  # type: ignore[arg-type]
        statement([*FILES]),  # type: ignore[arg-type]
        {"predicate": None},
        {},
    ],
)
def test_a_statement_with_other_files_or_of_another_builder_writes_nothing(
    hostile: dict[str, Any], tmp_path: Path
) -> None:
    """It may be anybody's: a path in it must not lead out of the folder."""
    with pytest.raises(ArchiveError):
        project_from(hostile, tmp_path / "a/b/c")

    assert [] == list(tmp_path.iterdir())


def test_a_file_of_another_torchkiln_is_named(tmp_path: Path) -> None:
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke/suite.py").write_text("another\n")
    ours = differing(statement(FILES), ROOT)
    said = statement(FILES)
    digest = {"sha256": "0" * 64}
    listed = said["predicate"]["buildDefinition"]["resolvedDependencies"]
    listed.append({"name": "smoke/suite.py", "digest": digest})

    assert "smoke/suite.py" in differing(said, tmp_path)
    assert "smoke/suite.py" in ours


@pytest.mark.parametrize(
    "material",
    [
        {"name": "smoke/suite.py", "digest": {"sha256": "/etc/passwd".rjust(64, "/")}},
        {"name": "smoke/suite.py", "digest": {}},
        {"name": "smoke/suite.py"},
        {"digest": {"sha256": "0" * 64}},
        "smoke/suite.py",
        None,
    ],
    ids=str,
)
def test_materials_that_name_no_hash_are_refused(material: object) -> None:
    said = statement(FILES)
    said["predicate"]["buildDefinition"]["resolvedDependencies"] = [material]

    for read in (differing, built_by):
        with pytest.raises(ArchiveError, match="no provenance"):
            read(said)


@pytest.mark.parametrize("commit", ["main; rm -rf ~", "--orphan", "0" * 39, None, 7])
def test_a_commit_that_is_none_is_in_no_hint(commit: object) -> None:
    said = statement(FILES)
    listed = said["predicate"]["buildDefinition"]["resolvedDependencies"]
    listed.append({"name": "torchkiln", "digest": {"gitCommit": commit}})
    assert "" == built_by(said)

    listed[0]["digest"]["gitCommit"] = "0123456789" * 4
    assert "0123456789" * 4 == built_by(said)


def test_the_builders_version_is_the_projects() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)

    assert found
    assert torchkiln.__version__ == found[1]
