"""The same bytes for everyone, and a difference that is found where there is one."""

from __future__ import annotations

import io
import json
import os
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from isal import igzip
from kiln_runs import Kiln, copy_clone, file_sha256, give, identity, share, share_inputs

from torchkiln.archive import open_gzip
from torchkiln.compare import layer_differences
from torchkiln.errors import ReproducibilityError
from torchkiln.layer import Entry, write_layer

if TYPE_CHECKING:
    from pathlib import Path

STRANGER = 54321
"""An id without a name, a home or a group."""

LINK_FIELDS = ("type", "mode", "size", "linkname", "content")
"""What differs between a file and a link."""


@pytest.fixture
def elsewhere(kiln: Kiln, cpu: dict[str, Any], scratch: Path) -> Kiln:
    """Another clone of another user with other habits on one core, and the inputs fetched."""
    assert cpu["layers"], "after a build, the inputs are there"
    folder = scratch / "someone else's place"
    (folder / "home").mkdir(parents=True)
    copy_clone(folder / "the clone")
    # Copies: who does not own a file may make no hard link to it (fs.protected_hardlinks).
    share_inputs(kiln.home, folder / "the store", copy=os.geteuid() == 0)
    other = Kiln(
        home=folder / "the store",
        clone=folder / "the clone",
        prefix=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))),
        umask=0o077,
        env={
            "HOME": str(folder / "home"),
            "LANG": "tr_TR.UTF-8",
            "LC_ALL": "tr_TR.UTF-8",
            "PYTHONHASHSEED": "4711",
            "SOURCE_DATE_EPOCH": "1234567890",
            "TZ": "Asia/Kathmandu",
            "USER": "someone",
        },
    )
    if os.geteuid() != 0:
        return other
    give(folder, STRANGER)
    return replace(other, user=STRANGER)


def test_user_umask_zone_locale_seed_cores_and_places_change_nothing(
    cpu: dict[str, Any], elsewhere: Kiln
) -> None:
    again = elsewhere.build()

    assert identity(cpu) == identity(again)
    assert [layer["digest"] for layer in cpu["layers"]] == [
        layer["digest"] for layer in again["layers"]
    ]


def test_one_more_byte_in_the_suite_changes_its_layer_and_no_other(
    kiln: Kiln, cpu: dict[str, Any], scratch: Path
) -> None:
    """The control of the test above."""
    copy_clone(scratch / "clone")
    with (scratch / "clone/smoke/suite.py").open("a") as stream:
        stream.write("\n")

    other = replace(kiln, clone=scratch / "clone").build()

    assert cpu["digest"] != other["digest"]
    changed = [
        before["name"]
        for before, after in zip(cpu["layers"], other["layers"], strict=True)
        if before["diff_id"] != after["diff_id"]
    ]
    assert ["torchkiln"] == changed


@pytest.mark.slow
def test_verify_builds_again_and_finds_the_same(kiln: Kiln, cpu: dict[str, Any]) -> None:
    done = kiln("build", "--cpu", "--no-smoke", "--verify", "--json")

    assert done.returncode == 0, done.stderr
    assert identity(cpu) == identity(json.loads(done.stdout))
    assert f"the second build is the same: {cpu['digest']}" in done.stderr


def test_verify_names_layer_path_and_field_of_a_difference(
    kiln: Kiln, cpu: dict[str, Any], fetched: Kiln
) -> None:
    """A store in which one mode of one layer is not what the inputs give."""
    share(kiln.home, fetched.home, [_hex(layer["digest"]) for layer in cpu["layers"]])
    wheels = next(layer for layer in cpu["layers"] if layer["name"] == "wheels")
    path, mode = _doctor(kiln.home, fetched.home, wheels)

    done = fetched("build", "--cpu", "--no-smoke", "--verify")

    assert ReproducibilityError.exit_code == done.returncode
    assert f"wheels: /{path}: mode: 600 != {mode:o}" in done.stderr
    assert 1 == done.stderr.count("!=")
    assert "Traceback" not in done.stderr


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _doctor(source: Path, target: Path, layer: dict[str, Any]) -> tuple[str, int]:
    """Put all records, and one layer with a file of mode 0600, into a store; return that file.

    What is returned is the file's path and the mode that it had.
    """
    blob = Kiln(home=target).store.blob(_hex(layer["digest"]))
    with open_gzip(blob) as stream:
        data = bytearray(stream.read())
    changed = _change_mode(data, 0o600)
    made = target / "doctored"
    made.write_bytes(igzip.compress(bytes(data), compresslevel=1, mtime=0))
    tar = target / "doctored.tar"
    tar.write_bytes(data)
    digest = file_sha256(made)
    other = {"digest": digest, "diff_id": file_sha256(tar), "size": made.stat().st_size}
    tar.unlink()
    made.rename(Kiln(home=target).store.blob(digest))
    for record in (source / "records/layers").iterdir():
        known = json.loads(record.read_text())
        if known["diff_id"] == _hex(layer["diff_id"]):
            known |= other
        copy = target / "records/layers" / record.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(json.dumps(known))
    return changed


def _change_mode(data: bytearray, mode: int) -> tuple[str, int]:
    """Give the first file of a tar another mode, in place, and return its path and what it was."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = next(member for member in archive if member.isfile() and not member.pax_headers)
    before, member.mode = member.mode, mode
    header = member.tobuf(format=tarfile.USTAR_FORMAT)
    data[member.offset : member.offset + tarfile.BLOCKSIZE] = header
    return member.name, before


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Entry.text("a/b", b"one"), []),
        (Entry.text("a/b", b"two"), [("a/b", "content")]),
        (Entry.text("a/b", b"longer"), [("a/b", "size"), ("a/b", "content")]),
        (Entry.text("a/b", b"one", mode=0o755), [("a/b", "mode")]),
        (Entry.text("a/c", b"one"), [("a/b", "presence"), ("a/c", "presence")]),
        (Entry.link("a/b", "c"), [("a/b", field) for field in LINK_FIELDS]),
    ],
    ids=["same", "bytes", "size", "mode", "name", "type"],
)
def test_a_difference_of_layers_is_told_by_path_and_field(
    scratch: Path, other: Entry, expected: list[tuple[str, str]]
) -> None:
    for name, entry in {"first": Entry.text("a/b", b"one"), "second": other}.items():
        write_layer(scratch / name, "layer", [entry])

    found = list(layer_differences("layer", scratch / "first", scratch / "second"))

    assert expected == [(difference.path, difference.field) for difference in found]
