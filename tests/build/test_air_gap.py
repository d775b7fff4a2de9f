"""A site without a network that has one file, and builds the same image from it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines import require
from kiln_runs import OFFLINE, PROJECT, Kiln, false_names, file_sha256, folder, identity, output

from torchkiln.bundle_source import PYTHON
from torchkiln.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """The disk of the site."""
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git clone")
    require("git", "unshare", f"python{PYTHON}")
    with folder() as made:
        yield made


@pytest.fixture(scope="module")
def bundled(
    kiln: Kiln, built: Callable[[str], dict[str, Any]], place: Path
) -> Callable[..., dict[str, Any]]:
    """A function that writes a bundle of the CPU variant and gives what `--json` says of it."""
    built("cpu")

    def write(name: str, *words: str) -> dict[str, Any]:
        done = kiln("bundle", "--cpu", "--output", str(place / name), "--json", *words)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    return write


@pytest.fixture(scope="module")
def inputs(bundled: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A bundle of what the image is built from."""
    return bundled("inputs.tar", "--inputs-only")


@pytest.fixture(scope="module")
def site(bundled: Callable[..., dict[str, Any]], place: Path) -> Kiln:
    """Torchkiln on the site, set up by the loader from a bundle with the built image."""
    bundle = bundled("full.tar")["bundle"]
    output("tar", "-xf", bundle, "-C", str(place), "load")
    environ = {**os.environ, "TORCHKILN_HOME": str(place / "store")}
    said = output(*OFFLINE, str(place / "load"), bundle, str(place / "torchkiln"), env=environ)
    assert said == "./kiln build --cpu\n"
    return Kiln(home=place / "store", clone=place / "torchkiln", prefix=OFFLINE)


def test_a_bundle_is_the_same_bytes_each_time_and_says_its_hash(
    bundled: Callable[..., dict[str, Any]], inputs: dict[str, Any]
) -> None:
    again = bundled("again.tar", "--inputs-only")

    assert again["sha256"] == inputs["sha256"]
    assert file_sha256(Path(again["bundle"])) == inputs["sha256"]


def test_the_image_is_there_without_a_network_and_without_a_build(
    cpu: dict[str, Any], site: Kiln
) -> None:
    there = site.build()

    assert identity(cpu) == identity(there)
    assert "base" not in there["seconds"]
    assert [] == false_names(site.home)


@pytest.mark.slow
def test_inputs_alone_build_the_same_image_without_a_network(
    cpu: dict[str, Any], site: Kiln, inputs: dict[str, Any], scratch: Path
) -> None:
    fresh = replace(site, home=scratch)
    done = fresh("load-bundle", inputs["bundle"])
    assert done.returncode == 0, done.stderr
    assert not (scratch / "records/layers").exists()

    again = fresh.build()
    assert identity(cpu) == identity(again)
    assert again["seconds"]["base"] > 0


def test_a_bundle_that_was_tampered_with_gives_the_site_nothing(
    site: Kiln, inputs: dict[str, Any], scratch: Path
) -> None:
    path = Path(inputs["bundle"])
    with path.open("r+b") as stream:
        stream.seek(-1_000_000, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    fresh = replace(site, home=scratch)
    done = fresh("load-bundle", str(path))

    assert done.returncode == ArchiveError.exit_code
    assert "the sha256 does not fit" in done.stderr
    assert ["locks"] == [path.name for path in scratch.iterdir()]
