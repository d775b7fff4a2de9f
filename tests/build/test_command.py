"""`./kiln build` from an empty store, and again with nothing changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kiln_runs import (
    NO_NAMESPACES,
    OFFLINE,
    Kiln,
    cpu_job,
    file_sha256,
    identity,
    leftovers,
    share,
    which,
)

from torchkiln.archive import open_gzip
from torchkiln.errors import FetchError, HostError

if TYPE_CHECKING:
    from collections.abc import Callable

VARIANTS = ["cpu", "cu117"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_build_describes_the_image_as_one_json_object(
    built: Callable[[str], dict[str, Any]], variant: str
) -> None:
    document = built(variant)

    assert {"variant", "reference", "digest", "layout", "layers", "seconds", "smoke"} <= set(
        document
    )
    assert variant == document["variant"]
    assert f"torchkiln:{variant}" == document["reference"]
    assert Path(document["layout"]).is_dir()
    for layer in document["layers"]:
        assert {"name", "diff_id", "digest", "size"} <= set(layer)
    assert all(seconds >= 0 for seconds in document["seconds"].values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_digests_are_those_of_the_bytes(
    built: Callable[[str], dict[str, Any]], variant: str
) -> None:
    document = built(variant)
    layout = Layout(Path(document["layout"]))

    manifest = layout.read(document["digest"])
    config = layout.read(manifest["config"]["digest"])
    index = json.loads((layout.root / "index.json").read_text())

    assert [document["digest"]] == [entry["digest"] for entry in index["manifests"]]
    assert [layer["digest"] for layer in document["layers"]] == [
        layer["digest"] for layer in manifest["layers"]
    ]
    assert [layer["diff_id"] for layer in document["layers"]] == config["rootfs"]["diff_ids"]
    for layer in document["layers"]:
        blob = layout.blob(layer["digest"])
        assert blob.stat().st_size == layer["size"]
        assert f"sha256:{file_sha256(blob)}" == layer["digest"]
        assert f"sha256:{_unpacked_sha256(blob)}" == layer["diff_id"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_built_image_has_passed_the_smoke_suite(
    built: Callable[[str], dict[str, Any]], variant: str
) -> None:
    smoke = built(variant)["smoke"]
    report = json.loads(Path(smoke["report"]).read_text())

    assert smoke["passed"] is True
    assert report["passed"] is True
    assert smoke["skipped"] == [
        check["id"] for check in report["checks"] if check["verdict"] == "skipped"
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_built_image_holds_what_its_lock_promises(
    kiln: Kiln, built: Callable[[str], dict[str, Any]], variant: str
) -> None:
    """`verify` runs `tests/image`; that each of its rules can fail is shown in tests/unit."""
    built(variant)

    done = kiln("verify", *which(variant))

    assert done.returncode == 0, done.stderr
    assert " 0 failed, 1 skipped " in done.stdout


def test_with_nothing_changed_nothing_is_made_and_no_network_is_needed(
    kiln: Kiln, cpu: dict[str, Any]
) -> None:
    before = _made(kiln.home)

    again = replace(kiln, prefix=OFFLINE).build("--cpu")

    assert identity(cpu) == identity(again)
    assert before == _made(kiln.home)
    assert again["smoke"]["passed"] is True
    assert again["smoke"]["fresh"] is False
    assert [] == leftovers(kiln.home)


@pytest.mark.slow
def test_fetched_inputs_build_without_a_network(cpu: dict[str, Any], fetched: Kiln) -> None:
    again = replace(fetched, prefix=OFFLINE).build()

    assert identity(cpu) == identity(again)


def test_where_nothing_is_missing_nothing_is_unpacked(
    kiln: Kiln, cpu: dict[str, Any], fetched: Kiln
) -> None:
    made = [layer["digest"].removeprefix("sha256:") for layer in cpu["layers"]]
    share(kiln.home, fetched.home, made)
    shutil.copytree(kiln.home / "records", fetched.home / "records", dirs_exist_ok=True)

    assert identity(cpu) == identity(fetched.build())
    assert not (fetched.home / "trees").exists()


@pytest.mark.parametrize(
    "words",
    [("run", "--cpu", "--", "true"), ("shell", "--cpu"), ("smoke", "--cpu"), ("verify", "--cpu")],
    ids=lambda words: words[0],
)
def test_what_needs_a_sandbox_says_so_where_none_starts(
    kiln: Kiln, cpu: dict[str, Any], words: tuple[str, ...]
) -> None:
    assert cpu["layers"]
    done = replace(kiln, prefix=NO_NAMESPACES)(*words)

    assert HostError.exit_code == done.returncode
    assert "`user.max_user_namespaces` is 0" in done.stderr
    assert done.stderr.endswith("hint: sudo sysctl -w user.max_user_namespaces=15000\n")
    assert "bwrap:" not in done.stderr


def test_what_starts_no_image_works_where_no_sandbox_does(
    kiln: Kiln, cpu: dict[str, Any], scratch: Path
) -> None:
    without = replace(kiln, prefix=NO_NAMESPACES)
    exported = without("export", "--cpu", "--output", str(scratch / "image.tar"))

    assert (0, 0) == (exported.returncode, without("list").returncode), exported.stderr
    assert identity(cpu) == identity(without.build("--cpu"))


def test_a_missing_input_is_named_where_there_is_no_network(fetched: Kiln) -> None:
    """The control of the two tests above: without a network nothing can be fetched."""
    debs = cpu_job(fetched.home).base_lock.debs
    missing = next(deb for deb in debs if deb.name == "base-files")
    fetched.store.blob(missing.sha256).unlink()

    done = replace(fetched, prefix=OFFLINE)("build", "--cpu")

    assert FetchError.exit_code == done.returncode
    assert f"cannot fetch {missing.filename.rpartition('/')[2]}" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_json_the_table_names_image_and_digest(kiln: Kiln, cpu: dict[str, Any]) -> None:
    done = kiln("build", "--cpu")

    assert done.returncode == 0, done.stderr
    assert f"{cpu['reference']}  {cpu['digest']}" == done.stdout.splitlines()[0]
    assert cpu["layout"] in done.stdout


def test_the_suite_can_be_left_out(kiln: Kiln, cpu: dict[str, Any]) -> None:
    again = kiln.build("--cpu", "--no-smoke")

    assert identity(cpu) == identity(again)
    assert again["smoke"] is None


class Layout:
    """An OCI layout on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def blob(self, digest: str) -> Path:
        """Return the path of a blob (`sha256:<hex>`)."""
        algorithm, _, value = digest.partition(":")
        return self.root / "blobs" / algorithm / value

    def read(self, digest: str) -> dict[str, Any]:
        """Return a JSON blob whose bytes are what `digest` says."""
        data = self.blob(digest).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
        document: dict[str, Any] = json.loads(data)
        return document


def _unpacked_sha256(blob: Path) -> str:
    found = hashlib.sha256()
    with open_gzip(blob) as stream:
        while data := stream.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def _made(home: Path) -> list[tuple[str, int, int]]:
    """Return what the store holds: path, inode and modification time (ns) of each blob and tree.

    The time of a layout tells when it was last used, so that is none here.
    """
    places = [*(home / "blobs").rglob("*"), *(home / "trees").iterdir()]
    status = [(str(path), path.stat()) for path in places]
    layouts = [(str(path), path.stat().st_ino, 0) for path in home.glob("images/*")]
    return sorted([*((path, one.st_ino, one.st_mtime_ns) for path, one in status), *layouts])
