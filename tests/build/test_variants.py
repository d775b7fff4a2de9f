"""All variants together: what is listed, what is built at once and, slowly, every CUDA."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from kiln_runs import PROJECT, Kiln, folder, identity, which

from torchkiln import pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

LOCKED = [one.id for one in pipeline.locked_variants(pipeline.open_project(PROJECT))]


def test_the_list_says_what_is_locked_and_what_is_built(kiln: Kiln, cpu: dict[str, Any]) -> None:
    done = kiln("list", "--json")
    rows = {row["id"]: row for row in json.loads(done.stdout)}

    assert (rows["cpu"]["state"], rows["cpu"]["digest"]) == ("built", cpu["digest"])
    assert rows["cpu"]["size"] == sum(layer["size"] for layer in cpu["layers"])
    assert rows["cu118"]["state"] == rows["cu129"]["state"] == "not locked"
    assert [name for name, row in rows.items() if row["state"] != "not locked"] == LOCKED


def test_several_variants_end_in_one_table(
    kiln: Kiln, built: Callable[[str], dict[str, Any]]
) -> None:
    """Two at a time, found by a pattern; both are there already."""
    wanted = {name: built(name) for name in ("cpu", "cu117")}
    command = ("build", "--only", "c[pu]*[u7]", "--jobs", "2")
    done = kiln(*command, "--json")
    outcomes = {one["variant"]: one for one in json.loads(done.stdout)}

    assert {name: identity(one["build"]) for name, one in outcomes.items()} == {
        name: identity(document) for name, document in wanted.items()
    }
    assert "[cpu] done" in done.stderr
    assert "2 variants: 0.0 GB to fetch, up to 0.0 GB of layers" in done.stderr
    assert kiln(*command).stdout.splitlines()[-1] == "2 built, 0 failed"


@pytest.mark.slow
@pytest.mark.parametrize("variant", LOCKED)
def test_every_variant_is_built_twice_alike_trains_and_holds_what_it_should(variant: str) -> None:
    """In a store of its own: no disk need hold them all."""
    with folder() as home:
        own = Kiln(home=home)
        document = own.build(*which(variant), "--verify")
        done = own("verify", *which(variant))

    assert document["smoke"]["passed"]
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("variant", LOCKED)
def test_what_is_written_down_of_torch_is_what_its_wheel_holds(kiln: Kiln, variant: str) -> None:
    done = kiln("check-facts", *which(variant))

    assert done.returncode == 0, done.stderr
    assert "glibc" in done.stdout
