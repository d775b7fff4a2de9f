from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

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
    dump,
    read_base_lock,
    read_variant_lock,
    variant_inputs,
    variant_lock_path,
)
from torchkiln.pipeline import locked_variants, open_project
from torchkiln.resolve import uv_platform

BASE = Base(release="bookworm", python="3.11", packages=("python3",))
CPU = Variant(id="cpu", torch="2.13.0", cuda=None, index="pytorch-cpu", packages=("numpy",))
CU117 = Variant(id="cu117", torch="2.0.1", cuda="11.7", index=None, packages=())
INDEXES = {"pytorch-cpu": "https://example.org/cpu", "other": "https://example.org/other"}
CATALOG = Catalog(base=BASE, indexes=INDEXES, variants=(CPU, CU117))
WHEEL = LockedWheel(name="torch", version="2.13.0+cpu", file="t.whl", size=1, sha256="ab" * 32)


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
    deb = LockedDeb(
        name="apt",
        version="1",
        architecture="amd64",
        archive="debian",
        filename="pool/apt.deb",
        size=1,
        sha256="ab" * 32,
    )
    date = "2026-07-11T10:16:37Z"
    lock = BaseLock(release="bookworm", inputs=base_inputs(BASE), date=date, debs=(deb,))
    write_atomic(base_lock_path(tmp_path, "bookworm"), dump(lock))

    assert read_base_lock(tmp_path, BASE) == lock


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
