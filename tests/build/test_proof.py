"""What is said of an image, against the image: its schema, a scanner's findings, a rebuild."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from kiln_runs import Kiln, cpu_job, folder

from torchkiln import packages, pipeline
from torchkiln.errors import CatalogError
from torchkiln.image_reader import read_layout
from torchkiln.lockfile import canonical
from torchkiln.proof.provenance import differing, project_from, provenance
from torchkiln.proof.sbom import sbom
from torchkiln.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torchkiln.engine.job import Job
    from torchkiln.image import Image

Document = dict[str, Any]
Found = Counter[tuple[str, str, str]]
"""How often a package is there: its kind (`pypi`, `deb`), name and version."""


@pytest.fixture(scope="module")
def job(kiln: Kiln, built: Any) -> Job:  # noqa: ANN401 - the fixture's own type is a function
    assert built("cpu")["digest"]
    return cpu_job(kiln.home)


@pytest.fixture(scope="module")
def image(job: Job) -> Image:
    project = pipeline.open_project(job.project, {"TORCHKILN_HOME": str(job.store.root)})
    return pipeline.assemble(project, job.variant, Stopwatch())


@pytest.fixture(scope="module")
def document(job: Job, image: Image) -> Document:
    return sbom(job, image)


@pytest.fixture(scope="module")
def statement(job: Job, image: Image) -> Document:
    return provenance(job, image)


@pytest.fixture(scope="module")
def rebuilt(statement: Document) -> Iterator[Path]:
    """The project that the statement alone gives."""
    with folder() as made:
        project_from(json.loads(json.dumps(statement)), made)
        yield made


def packages_of(document: Mapping[str, Any]) -> Found:
    """Return the Python and Debian packages of an SBOM, those inside others too."""
    found: Found = Counter()
    for one in document["components"]:
        for component in (one, *one.get("components", ())):
            kind = component.get("purl", "").removeprefix("pkg:").partition("/")[0]
            if kind in {"pypi", "deb"}:
                found[kind, component["name"], component["version"]] += 1
    return found


def test_the_sbom_keeps_the_schema_and_a_broken_one_does_not(document: Document) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)

    assert validator.validate_str(canonical(document).decode()) is None
    assert validator.validate_str(canonical(document | {"invented": 1}).decode()) is not None
    refs = [row["ref"] for row in document["dependencies"]]
    assert len(refs) == len(set(refs))
    assert {ref for row in document["dependencies"] for ref in row["dependsOn"]} <= set(refs)


def test_the_sbom_is_what_the_image_holds(document: Document, image: Image) -> None:
    """Against dpkg's database and the METADATA files in the layers, which it is not made from."""
    kinds = {"deb": "deb", "wheel": "pypi"}
    installed = packages.installed(read_layout(image.layout))
    there = Counter((kinds[one.kind], one.name, one.version) for one in installed)

    own = {**document, "components": [one | {"components": []} for one in document["components"]]}
    assert there == packages_of(own)


@pytest.mark.slow
def test_syft_finds_the_same_packages_and_misses_one_that_is_left_out(
    document: Document, image: Image
) -> None:
    """Its other finds are Windows programs in pip, which have no package: they run nowhere here."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    syft = shutil.which("syft", path=path)
    if syft is None:
        pytest.skip("not installed: syft")
    done = subprocess.run(
        [syft, f"oci-dir:{image.layout}", "-o", "cyclonedx-json", "-q"],
        env={**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"},
        capture_output=True,
        check=True,
    )
    found = packages_of(json.loads(done.stdout))

    assert found == packages_of(document)
    for left_out in ("pkg:pypi/numpy", "pkg:deb/debian/libc6"):
        rest = [one for one in document["components"] if left_out not in one.get("purl", "")]
        assert found != packages_of({"components": rest})


def test_every_package_has_a_hash_of_the_lock_and_a_licence(document: Document, job: Job) -> None:
    locked = {wheel.sha256 for wheel in job.lock.wheels}
    locked |= {deb.sha256 for deb in job.base_lock.debs}
    listed = [one for one in document["components"] if one["type"] == "library"]

    assert locked == {one["hashes"][0]["content"] for one in listed}
    assert [] == [one["name"] for one in listed if not one["licenses"]]


def test_every_package_is_there_for_a_reason(document: Document) -> None:
    """From the image itself, dependencies lead to each one."""
    needs = {row["ref"]: row["dependsOn"] for row in document["dependencies"]}
    reached: set[str] = set()
    todo = [document["metadata"]["component"]["bom-ref"]]
    while todo:
        reached.add(ref := todo.pop())
        todo += [one for one in needs[ref] if one not in reached]

    assert set() == set(needs) - reached


def test_the_documents_are_the_same_bytes_in_another_process_and_zone(
    kiln: Kiln, document: Document, statement: Document
) -> None:
    other = Kiln(home=kiln.home, env={"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "4711"})
    listed, told = other("sbom", "--cpu"), other("provenance", "--cpu")

    assert (0, 0) == (listed.returncode, told.returncode), listed.stderr + told.stderr
    assert canonical(document) == canonical(json.loads(listed.stdout))
    assert canonical(statement) == canonical(json.loads(told.stdout))


def test_the_statement_names_every_input_by_its_hash(statement: Document, job: Job) -> None:
    definition = statement["predicate"]["buildDefinition"]
    hashes = {one["digest"].get("sha256") for one in definition["resolvedDependencies"]}

    assert {wheel.sha256 for wheel in job.lock.wheels} <= hashes
    assert {deb.sha256 for deb in job.base_lock.debs} <= hashes
    assert [] == differing(statement)
    for place in (str(job.project), str(job.store.root)):
        assert place not in json.dumps(statement)


def test_the_statement_is_one_for_in_totos_own_reader(statement: Document) -> None:
    """Its readers are made from the protocol buffers of the specifications."""
    json_format = pytest.importorskip("google.protobuf.json_format")
    form = pytest.importorskip("in_toto_attestation.v1.statement")
    messages = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    slsa = pytest.importorskip("in_toto_attestation.predicates.provenance.v1.provenance_pb2")

    read = form.Statement([], "", {})
    read.pb = json_format.ParseDict(statement, messages.Statement())
    read.validate()
    predicate = json_format.ParseDict(statement["predicate"], slsa.Provenance())

    assert statement["predicate"]["runDetails"]["builder"]["id"] == predicate.run_details.builder.id
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict(statement["predicate"] | {"invented": 1}, slsa.Provenance())
    read.pb.subject[0].digest.clear()
    with pytest.raises(ValueError, match="digest"):
        read.validate()


def test_the_image_is_built_again_from_its_statement_alone(
    statement: Document, rebuilt: Path, job: Job
) -> None:
    """In an empty folder, with the inputs in the store."""
    project = pipeline.open_project(rebuilt, {"TORCHKILN_HOME": str(job.store.root)})

    again = pipeline.assemble(project, project.catalog.variant("cpu"), Stopwatch())

    assert statement["subject"] == [
        {"name": "torchkiln:cpu", "digest": {"sha256": again.digest}},
    ]


def test_a_smoke_suite_that_differs_is_named_and_gives_another_image(
    statement: Document, rebuilt: Path, job: Job
) -> None:
    """The control of the test above."""
    suite = rebuilt / "smoke/suite.py"
    before = suite.read_text()
    try:
        suite.write_text(f"{before}\n")
        project = pipeline.open_project(rebuilt, {"TORCHKILN_HOME": str(job.store.root)})
        again = pipeline.assemble(project, project.catalog.variant("cpu"), Stopwatch())
        named = differing(statement, rebuilt)
    finally:
        suite.write_text(before)

    assert ["smoke/suite.py"] == named
    assert statement["subject"][0]["digest"]["sha256"] != again.digest


def test_explain_answers_for_an_import_and_refuses_what_is_not_there(kiln: Kiln) -> None:
    found = kiln("explain", "--cpu", "PIL", "--json")
    unknown = kiln("explain", "--cpu", "numppy")

    assert 0 == found.returncode, found.stderr
    (package,) = json.loads(found.stdout)["packages"]
    assert ("pillow", [["matplotlib", "pillow"]]) == (package["name"], package["chains"])
    assert (CatalogError.exit_code, "") == (unknown.returncode, unknown.stdout)
    assert "did you mean `numpy`?" in unknown.stderr


def test_names_with_other_letters_are_told_as_they_are(document: Document) -> None:
    purls = [one["purl"] for one in document["components"] if one["name"] == "libstdc++6"]

    assert ["pkg:deb/debian/libstdc++6"] == [unquote(one).partition("@")[0] for one in purls]
