"""A mirror that has moved on since the lock, as every mirror has some days later.

In this order: the store, a cache, a dated archive, the present packages of the release.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from drifting_mirror import DROPPED, REPLACED, Mirror, make_mirror, trusting_clone
from kiln_runs import Kiln, cpu_job, folder, identity, leftovers, share

from torchkiln.errors import FetchError, LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")


@pytest.fixture(scope="module")
def mirror(kiln: Kiln, built: Callable[[str], dict[str, Any]]) -> Iterator[Mirror]:
    """A mirror that has replaced three packages, as a point release does, and dropped one."""
    built("cpu")
    with folder() as root:
        yield make_mirror(root, kiln.store, cpu_job(kiln.home).base_lock)


@pytest.fixture(scope="module")
def newcomer(kiln: Kiln, mirror: Mirror) -> Iterator[Callable[[], Kiln]]:
    """A function that gives a clone which trusts the mirror, with the layers of wheels alone."""
    with folder() as place:
        clone = trusting_clone(place / "clone", mirror)

        def make() -> Kiln:
            home = place / f"store-{len(list(place.iterdir()))}"
            share(kiln.home, home, [wheel.sha256 for wheel in cpu_job(kiln.home).lock.wheels])
            _share_wheel_layers(kiln, home)
            return Kiln(home=home, clone=clone, env={"TORCHKILN_DEBIAN_MIRROR": mirror.setting})

        yield make


def _share_wheel_layers(kiln: Kiln, home: Path) -> None:
    for path in (kiln.home / "records/layers").glob("*.json"):
        record = json.loads(path.read_text())
        if not record["name"].startswith("debian-"):
            share(kiln.home, home, [record["digest"]])
            (home / "records/layers").mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, home / "records/layers")


@pytest.fixture(scope="module")
def drifted(newcomer: Callable[[], Kiln]) -> tuple[Kiln, dict[str, Any], str]:
    """A newcomer's store, what `build --json` says there, and its messages."""
    kiln = newcomer()
    done = kiln("build", "--cpu", "--no-smoke", "--json")
    assert done.returncode == 0, done.stderr
    return kiln, json.loads(done.stdout), done.stderr


Drift = tuple[Kiln, dict[str, Any], str]


def test_the_first_command_works_and_names_what_has_drifted_in_one_line(
    drifted: Drift, cpu: dict[str, Any], mirror: Mirror
) -> None:
    _, document, messages = drifted

    (line,) = [line for line in messages.splitlines() if "drifted" in line]
    for name in REPLACED:
        assert f"{name} {mirror.version(name)} -> {mirror.version(name)}+u1" in line
    assert f"{DROPPED} {mirror.version(DROPPED)} -> gone" in line
    assert "torchkiln:cpu-drifted" == document["reference"]
    assert cpu["digest"] != document["digest"]
    assert sorted([*REPLACED, DROPPED]) == [package["name"] for package in document["drifted"]]
    same = zip(cpu["layers"][1:], document["layers"][1:], strict=True)
    assert all(one["digest"] == other["digest"] for one, other in same), "all but the base"


def test_a_drifted_image_is_whole_and_dpkg_knows_the_present_versions(
    drifted: Drift, mirror: Mirror
) -> None:
    kiln, _, _ = drifted
    query = ("dpkg-query", "--show", "--showformat", "${Version}", "netbase")

    done = kiln("run", "--cpu", "--", *query)
    checked = kiln("verify", "--cpu")

    assert f"{mirror.version('netbase')}+u1" == done.stdout, done.stderr
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_drifted_base_stays_what_it_is_without_a_mirror(drifted: Drift) -> None:
    kiln, document, _ = drifted
    offline = replace(
        kiln, env={"TORCHKILN_DEBIAN_MIRROR": "http://localhost:1", "PIP_RETRIES": "0"}
    )

    again = offline("build", "--cpu", "--no-smoke", "--json")

    assert again.returncode == 0, again.stderr
    assert identity(document) == identity(json.loads(again.stdout))
    (line,) = again.stderr.splitlines()
    assert line.startswith("warning: the base has drifted from its lock: "), "nothing was asked"


def test_gc_keeps_a_drifted_base_as_long_as_its_lock_is_in_use(drifted: Drift) -> None:
    kiln, document, _ = drifted
    (record,) = (kiln.home / "records/drifted").iterdir()

    done = kiln("gc", "--remove", "--unused", "0")

    assert done.returncode == 0, done.stderr
    assert record.exists()
    assert identity(document) == identity(kiln.build())


def test_list_label_and_provenance_tell_of_the_drift(drifted: Drift) -> None:
    kiln, document, _ = drifted

    table, rows = kiln("list"), json.loads(kiln("list", "--json").stdout)
    statement = json.loads(kiln("provenance", "--cpu").stdout)

    assert "built, drifted" in table.stdout
    assert "netbase" in table.stdout
    assert document["drifted"] == next(row for row in rows if row["id"] == "cpu")["drifted"]
    definition = statement["predicate"]["buildDefinition"]
    assert document["drifted"] == definition["internalParameters"]["drifted"]
    uris = " ".join(one.get("uri", "") for one in definition["resolvedDependencies"])
    assert "deb/debian/netbase@" in uris
    assert f"deb/debian/{DROPPED}@" not in uris
    assert "netbase" in _labels(document)["io.torchkiln.drifted"]


def _labels(document: dict[str, Any]) -> dict[str, str]:
    layout = Path(document["layout"])
    manifest = json.loads((layout / "blobs/sha256" / document["digest"][7:]).read_bytes())
    config = layout / "blobs/sha256" / manifest["config"]["digest"][7:]
    labels: dict[str, str] = json.loads(config.read_bytes())["config"]["Labels"]
    return labels


def test_a_push_moves_no_tag_of_a_clean_image_and_frozen_refuses(
    drifted: Drift, registry: str
) -> None:
    kiln, document, _ = drifted

    refused = kiln("push", "--cpu", "--to", f"{registry}/drift", "--frozen")
    pushed = kiln("push", "--cpu", "--to", f"{registry}/drift", "--json")

    assert LockError.exit_code == refused.returncode, refused.stderr
    assert "netbase" in refused.stderr
    assert pushed.returncode == 0, pushed.stderr
    tags = json.loads(pushed.stdout)["tags"]
    assert document["digest"] == json.loads(pushed.stdout)["digest"]
    assert tags
    assert all(tag.endswith("-drifted") for tag in tags)
    rebuilt = kiln("verify", f"{registry}/drift:cpu-drifted", "--rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr


def test_frozen_names_the_packages_and_builds_nothing(
    newcomer: Callable[[], Kiln], mirror: Mirror
) -> None:
    kiln = newcomer()

    done = kiln("build", "--cpu", "--no-smoke", "--frozen")

    assert FetchError.exit_code == done.returncode, done.stderr
    first = done.stderr.splitlines()[0]
    assert all(f"{name} {mirror.version(name)}" in first for name in (*REPLACED, DROPPED))
    assert "hint: ./kiln lock --base" in done.stderr
    assert [] == leftovers(kiln.home)
    assert not (kiln.home / "records/drifted").exists()


def test_a_dated_archive_has_what_the_mirror_dropped(
    newcomer: Callable[[], Kiln], mirror: Mirror, cpu: dict[str, Any]
) -> None:
    kiln = newcomer()
    dated = replace(kiln, env={**kiln.env, "TORCHKILN_DEBIAN_SNAPSHOT": mirror.archive})

    done = dated("build", "--cpu", "--no-smoke", "--json", "--frozen")

    assert done.returncode == 0, done.stderr
    assert identity(cpu) == identity(json.loads(done.stdout))
    assert "drifted" not in done.stderr


def test_a_cache_that_has_the_base_by_its_key_comes_before_the_mirror(
    kiln: Kiln, newcomer: Callable[[], Kiln], cpu: dict[str, Any], registry: str
) -> None:
    assert kiln("push", "--cpu", "--to", f"{registry}/clean").returncode == 0

    done = newcomer()("build", "--cpu", "--no-smoke", "--json", "--cache-from", f"{registry}/clean")

    assert done.returncode == 0, done.stderr
    assert identity(cpu) == identity(json.loads(done.stdout))
    assert "drifted" not in done.stderr


def test_a_new_lock_is_the_way_back_to_a_clean_state(
    drifted: Drift, mirror: Mirror, scratch: Path
) -> None:
    kiln, document, _ = drifted
    own = replace(kiln, clone=trusting_clone(scratch / "clone", mirror))

    locked = own("lock", "--base")
    clean = own.build()

    assert locked.returncode == 0, locked.stderr
    assert "torchkiln:cpu" == clean["reference"]
    assert [] == clean["drifted"]
    assert [layer["diff_id"] for layer in document["layers"]] == [
        layer["diff_id"] for layer in clean["layers"]
    ]
