"""Stores whose files are no longer what they were: noticed, named, and mended by the hint."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kiln_runs import Kiln, cpu_job, false_names, file_sha256, identity, share

from torchkiln.errors import ArchiveError


@pytest.fixture
def copy(kiln: Kiln, cpu: dict[str, Any], fetched: Kiln) -> Kiln:
    """`./kiln` with a store of its own that holds inputs, layers and image, and no tree."""
    share(kiln.home, fetched.home, [_hex(layer["digest"]) for layer in cpu["layers"]])
    shutil.copytree(kiln.home / "records/layers", fetched.home / "records/layers")
    assert identity(cpu) == identity(fetched.build())
    return fetched


def test_a_damaged_layer_is_named_and_mended_by_what_the_hint_says(
    copy: Kiln, cpu: dict[str, Any]
) -> None:
    layer = next(layer for layer in cpu["layers"] if layer["name"] == "wheels")
    _damage(copy, _hex(layer["digest"]))

    done = copy("run", "--cpu", "--", "true")

    assert ArchiveError.exit_code == done.returncode, done.stderr
    assert "not what it was: wheels" in done.stderr
    assert "Traceback" not in done.stderr
    _follow_hint(done.stderr)
    again = copy.build()
    assert identity(cpu) == identity(again)
    assert copy("run", "--cpu", "--", "true").returncode == 0
    assert [] == false_names(copy.home)
    assert [] == _false_in_layout(again)


@pytest.mark.parametrize("kind", ["wheel", pytest.param("deb", marks=pytest.mark.slow)])
def test_a_damaged_input_is_named_and_mended_by_what_the_hint_says(
    copy: Kiln, cpu: dict[str, Any], kind: str
) -> None:
    work = cpu_job(copy.home)
    wheel = work.lock.wheel("packaging")
    deb = next(deb for deb in work.base_lock.debs if deb.name == "bash")
    sha256, name, layer = {
        "wheel": (wheel.sha256, wheel.file, "wheels"),
        "deb": (deb.sha256, deb.name, "debian-bookworm"),
    }[kind]
    _forget(copy, layer)
    _damage(copy, sha256)

    done = copy("build", "--cpu", "--no-smoke")

    assert ArchiveError.exit_code == done.returncode, done.stderr
    assert name in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr
    _follow_hint(done.stderr)
    assert identity(cpu) == identity(copy.build())


def test_a_truncated_input_is_fetched_again(copy: Kiln) -> None:
    assert copy("fetch", "--cpu").returncode == 0, "what environments need besides"
    wheel = cpu_job(copy.home).lock.wheel("packaging")
    place = copy.store.blob(wheel.sha256)
    place.unlink()
    place.write_bytes(b"PK")

    done = copy("fetch", "--cpu")

    assert done.returncode == 0, done.stderr
    assert "fetched 1 files" in done.stdout
    assert wheel.sha256 == file_sha256(place)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _damage(kiln: Kiln, sha256: str) -> None:
    """Flip a bit of a blob, under all its names in this store and in no other store."""
    blob = kiln.store.blob(sha256)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    for name in [blob, *kiln.home.glob(f"images/*/blobs/sha256/{sha256}")]:
        name.unlink()
        if name == blob:
            blob.write_bytes(data)
        else:
            os.link(blob, name)


def _forget(kiln: Kiln, layer: str) -> None:
    """Take from the store what it knows of layers of this name: they are made again from inputs."""
    for path in (kiln.home / "records/layers").glob("*.json"):
        if json.loads(path.read_text())["name"] == layer:
            path.unlink()


def _follow_hint(message: str) -> None:
    """Do what the hint says to do before the next build."""
    removal = re.search(r"^hint: (rm \S+)", message, re.MULTILINE)
    assert removal, message
    subprocess.run(removal[1].rstrip(",").split(), check=True)


def _false_in_layout(document: dict[str, Any]) -> list[str]:
    blobs = sorted(Path(document["layout"], "blobs/sha256").iterdir())
    return [blob.name for blob in blobs if blob.name != file_sha256(blob)]
