from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from torchkiln.catalog import Base, Catalog, Variant
from torchkiln.errors import LockError
from torchkiln.files import write_atomic
from torchkiln.lockfile import (
    BaseLock,
    LockedDeb,
    LockedWheel,
    VariantLock,
    base_inputs,
    base_lock_path,
    digest,
    dump,
    read_base_lock,
    read_variant_lock,
    variant_inputs,
    variant_lock_path,
)
from torchkiln.pipeline import locked_variants, open_project
from torchkiln.resolve import uv_platform

if TYPE_CHECKING:
    from collections.abc import Callable

BASE = Base(release="bookworm", python="3.11", packages=("python3",))
CPU = Variant(id="cpu", torch="2.13.0", cuda=None, index="pytorch-cpu", packages=("numpy",))
CU117 = Variant(id="cu117", torch="2.0.1", cuda="11.7", index=None, packages=())
INDEXES = {"pytorch-cpu": "https://example.org/cpu", "other": "https://example.org/other"}
CATALOG = Catalog(base=BASE, indexes=INDEXES, variants=(CPU, CU117))
WHEEL = LockedWheel(name="torch", version="2.13.0+cpu", file="t.whl", size=1, sha256="ab" * 32)

DEB = LockedDeb(
    name="apt",
    version="1",
    architecture="amd64",
    archive="debian",
    filename="pool/apt.deb",
    size=1,
    sha256="ab" * 32,
)
BASE_LOCK = BaseLock(
    release="bookworm", inputs=base_inputs(BASE), date="2026-07-11T10:16:37Z", debs=(DEB,)
)


@pytest.fixture
def lock(tmp_path: Path) -> VariantLock:
    """Write a lock of the CPU variant."""
    inputs = variant_inputs(CATALOG, CPU)
    lock = VariantLock(variant="cpu", inputs=inputs, python="3.11", wheels=(WHEEL,))
    write_atomic(variant_lock_path(tmp_path, "cpu"), dump(lock))
    return lock


def refusal(root: Path, catalog: Catalog, variant: Variant) -> str:
    with pytest.raises(LockError) as caught:
        read_variant_lock(root, catalog, variant)
    return str(caught.value)


def edit(root: Path, old: str, new: str) -> None:
    path = variant_lock_path(root, "cpu")
    path.write_text(path.read_text().replace(old, new))


def test_a_lock_is_read_as_it_was_written(tmp_path: Path, lock: VariantLock) -> None:
    assert read_variant_lock(tmp_path, CATALOG, CPU) == lock


def test_the_lock_of_a_base_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_atomic(base_lock_path(tmp_path, "bookworm"), dump(BASE_LOCK))

    assert read_base_lock(tmp_path, BASE) == BASE_LOCK


@pytest.mark.parametrize(("variant", "command"), [(CPU, "--cpu"), (CU117, "--cuda 117")])
def test_a_missing_lock_names_the_command_that_makes_it(
    tmp_path: Path, variant: Variant, command: str
) -> None:
    text = refusal(tmp_path, CATALOG, variant)

    assert text == (
        f"error: there is no lock: envs/{variant.id}/lock.json\n\nhint: ./kiln lock {command}"
    )


def test_a_missing_lock_of_the_base_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"hint: \./kiln lock --base$"):
        read_base_lock(tmp_path, BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"size": 1', '"size": 2'), ("2.13.0+cpu", "2.13.1+cpu"), ('"format": 1', '"format": 2')],
)
def test_a_lock_edited_by_hand_is_refused(
    tmp_path: Path, lock: VariantLock, old: str, new: str
) -> None:
    edit(tmp_path, old, new)

    text = refusal(tmp_path, CATALOG, CPU)

    assert lock.variant == "cpu"
    assert "the lock was changed by hand, its checksum does not fit: envs/cpu/lock.json" in text
    assert text.endswith("hint: ./kiln lock --cpu")


@pytest.mark.parametrize(
    "catalog",
    [
        replace(CATALOG, base=replace(BASE, python="3.12")),
        replace(CATALOG, base=replace(BASE, release="trixie")),
        replace(CATALOG, indexes=INDEXES | {"pytorch-cpu": "https://example.org/moved"}),
    ],
    ids=["python", "release", "index"],
)
def test_a_lock_is_stale_when_what_its_variant_shares_has_changed(
    tmp_path: Path, lock: VariantLock, catalog: Catalog
) -> None:
    text = refusal(tmp_path, catalog, CPU)

    assert lock.inputs != variant_inputs(catalog, CPU)
    assert "the lock is older than `images/variants.yaml`: envs/cpu/lock.json" in text
    assert text.endswith("hint: ./kiln lock --cpu")


@pytest.mark.parametrize("change", [{"torch": "2.13.1"}, {"packages": ()}, {"index": None}])
def test_a_lock_is_stale_when_its_variant_has_changed(
    tmp_path: Path, lock: VariantLock, change: dict[str, object]
) -> None:
    variant = replace(CPU, **change)  # type: ignore[arg-type]

    assert lock.variant == variant.id
    assert "the lock is older than" in refusal(tmp_path, CATALOG, variant)


@pytest.mark.parametrize(
    "catalog",
    [
        replace(CATALOG, variants=(CPU,)),
        replace(CATALOG, base=replace(BASE, packages=("python3", "git"))),
        replace(CATALOG, indexes=INDEXES | {"other": "https://example.org/moved"}),
    ],
    ids=["another variant", "a package of the base", "another index"],
)
def test_a_lock_outlives_changes_that_do_not_concern_it(
    tmp_path: Path, lock: VariantLock, catalog: Catalog
) -> None:
    assert read_variant_lock(tmp_path, catalog, CPU) == lock


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a lock and give it the right checksum, as whoever wrote it would."""
    body = json.loads(path.read_text())
    del body["checksum"]
    change(body)
    path.write_text(json.dumps(body | {"checksum": digest(body)}))


BAD_WHEELS = [
    ("sha256", "/home/user/.bashrc".rjust(64, "/")),
    ("sha256", "AB" * 32),
    ("sha256", None),
    ("size", -1),
    ("size", True),
    ("size", "1"),
    ("file", "../../.bashrc"),
    ("file", "/etc/x.whl"),
    ("file", ".whl"),
    ("name", "../x"),
    ("version", "1\n"),
    ("source", "a/b"),
    ("more", 1),
]


@pytest.mark.parametrize(("key", "value"), BAD_WHEELS)
def test_a_lock_with_a_right_checksum_is_refused_for_what_no_lock_says(
    tmp_path: Path, lock: VariantLock, key: str, value: object
) -> None:
    """It may come with somebody's branch; its words become names of files."""
    rewrite(
        variant_lock_path(tmp_path, lock.variant),
        lambda body: body["wheels"][0].update({key: value}),
    )

    text = refusal(tmp_path, CATALOG, CPU)

    assert text.startswith(f"error: invalid lock: envs/cpu/lock.json\n  wheels[0].{key}: ")
    assert text.endswith("hint: ./kiln lock --cpu")


def test_all_that_is_wrong_with_a_lock_is_told_at_once(tmp_path: Path, lock: VariantLock) -> None:
    def change(body: dict[str, Any]) -> None:
        body["python"] = "../3.11"
        body["wheels"] += [{**body["wheels"][0], "sha256": "x", "size": -1}, "wheel"]
        del body["wheels"][0]["file"]

    rewrite(variant_lock_path(tmp_path, lock.variant), change)

    lines = refusal(tmp_path, CATALOG, CPU).splitlines()
    assert [
        "python",
        "wheels[0].file",
        "wheels[1].sha256",
        "wheels[1].size",
        "wheels[2]",
    ] == [line.strip().partition(": ")[0] for line in lines[1:-2]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sha256", "x" * 64),
        ("size", -1),
        ("size", 10**400),
        ("filename", "../x.deb"),
        ("filename", "/pool/x.deb"),
        ("filename", "pool/../x.deb"),
        ("archive", "elsewhere"),
        ("name", "../x"),
        ("architecture", "a/b"),
    ],
)
def test_a_lock_of_the_base_is_held_to_the_same(tmp_path: Path, key: str, value: object) -> None:
    write_atomic(base_lock_path(tmp_path, "bookworm"), dump(BASE_LOCK))
    rewrite(base_lock_path(tmp_path, "bookworm"), lambda body: body["debs"][0].update({key: value}))

    with pytest.raises(LockError, match="invalid lock") as caught:
        read_base_lock(tmp_path, BASE)
    assert caught.value.why.startswith(f"debs[0].{key}: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("date", "2026-13-45T99:99:99Z"),
        ("date", "9999-12-31T23:59:59Z"),
        ("date", "2026-11-22"),
        ("date", 5),
    ],
)
def test_a_date_that_is_none_is_refused(tmp_path: Path, key: str, value: object) -> None:
    write_atomic(base_lock_path(tmp_path, "bookworm"), dump(BASE_LOCK))
    rewrite(base_lock_path(tmp_path, "bookworm"), lambda body: body.update({key: value}))

    with pytest.raises(LockError, match="invalid lock") as caught:
        read_base_lock(tmp_path, BASE)
    assert caught.value.why.startswith("date: ")


def test_a_lock_of_another_release_is_refused(tmp_path: Path) -> None:
    """Its word would name the lock's own file."""
    write_atomic(base_lock_path(tmp_path, "bookworm"), dump(BASE_LOCK))
    rewrite(base_lock_path(tmp_path, "bookworm"), lambda body: body.update({"release": "trixie"}))

    with pytest.raises(LockError, match="of another release"):
        read_base_lock(tmp_path, BASE)


@pytest.mark.parametrize("change", [{"file": "torch-1-py3-none-any./../../x.whl"}, {"sha256": "x"}])
def test_no_lock_is_written_of_what_an_index_cannot_mean(change: dict[str, str]) -> None:
    wheel = replace(WHEEL, **change)  # type: ignore[arg-type]
    lock = VariantLock(variant="cpu", inputs="0" * 64, python="3.11", wheels=(wheel,))

    with pytest.raises(LockError, match="invalid lock of `cpu`") as caught:
        dump(lock)
    assert f"wheels[0].{next(iter(change))}: " in caught.value.why


@pytest.mark.parametrize("text", ["", "{}", '{"checksum": ""}', "\N{SNOWMAN}"])
def test_a_lock_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    write_atomic(variant_lock_path(tmp_path, "cpu"), text)

    assert "the lock cannot be read: envs/cpu/lock.json" in refusal(tmp_path, CATALOG, CPU)


def test_a_lock_is_the_same_bytes_whatever_made_it(lock: VariantLock) -> None:
    text = dump(lock)

    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    assert text == dump(replace(lock))


def test_what_is_said_of_a_variants_end_makes_no_lock_stale() -> None:
    ended = replace(CU117, ended="2023-10-04", replacement="cu126")

    assert variant_inputs(CATALOG, ended) == variant_inputs(CATALOG, CU117)
    assert variant_inputs(CATALOG, replace(CU117, torch="2.0.0")) != variant_inputs(CATALOG, CU117)


def test_every_committed_lock_names_the_platform_that_it_covers() -> None:
    project = open_project(Path(__file__).parents[2])
    for variant in locked_variants(project):
        lock = read_variant_lock(project.root, project.catalog, variant)
        assert lock.platform == uv_platform(project.catalog.base)
