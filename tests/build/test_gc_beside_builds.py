"""What `gc` does beside real builds and runs: nothing that they need goes, whenever it comes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kiln_runs import (
    OFFLINE,
    Kiln,
    copy_clone,
    false_names,
    finish,
    folder,
    identity,
    kill,
    leftovers,
    share,
    wait_for,
)

from torchkiln import catalog
from torchkiln.errors import StoreError
from torchkiln.lockfile import dump, read_variant_lock, variant_lock_path

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

_DATA = [b"PK garbage %d" % number for number in range(300)]  # for a kill to come between two
_GARBAGE = {hashlib.sha256(data).hexdigest() for data in _DATA}
_GC = ("gc", "--remove", "--unused", "0")  # garbage has no project, and is young


@pytest.fixture
def copy(kiln: Kiln, cpu: dict[str, Any], fetched: Kiln) -> Kiln:
    """`./kiln` with a store of its own that holds inputs, layers and garbage."""
    share(kiln.home, fetched.home, [_hex(layer["digest"]) for layer in cpu["layers"]])
    shutil.copytree(kiln.home / "records/layers", fetched.home / "records/layers")
    for data in _DATA:
        fetched.store.put(data)
    return fetched


@pytest.fixture
def start(copy: Kiln) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts `./kiln`; what a failed test leaves, stopped or not, is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        started.append(copy.start(*words))
        return started[-1]

    yield run
    for process in started:
        kill(process)


def test_a_build_loses_nothing_to_a_gc_that_comes_while_it_is_stopped(
    copy: Kiln, cpu: dict[str, Any], start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Before it reads, after it unpacked a tree, while it writes a layer: gc says who works.

    One gc waits for it, and a build that comes while that waits is right too.
    """
    _forget(copy, cpu, "wheels")
    before = _garbage(copy)
    process = start("build", "--cpu", "--no-smoke", "--json")
    for sign in ("tmp/*.lock", "trees/*", "tmp/*/layer"):
        assert wait_for(lambda sign=sign: any(copy.home.glob(sign)), 60), sign  # type: ignore[misc]
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGSTOP)
        refused = copy("gc", "--remove")
        assert StoreError.exit_code == refused.returncode, refused.stderr
        assert f"error: the store is in use: {copy.home}" in refused.stderr
        assert f"{process.pid}: " in refused.stderr
        assert before == _garbage(copy)
        if sign != "tmp/*/layer":
            os.killpg(process.pid, signal.SIGCONT)
    waiting = start(*_GC, "--wait")
    second = start("build", "--cpu", "--no-smoke", "--json")
    time.sleep(1)
    os.killpg(process.pid, signal.SIGCONT)
    done = [finish(one) for one in (process, waiting, second)]

    assert [0, 0, 0] == [one.returncode for one in done], "\n".join(one.stderr for one in done)
    assert identity(cpu) == identity(json.loads(done[0].stdout))
    assert identity(cpu) == identity(json.loads(done[2].stdout))
    assert "waiting for the end of:" in done[1].stderr
    assert set() == _garbage(copy)
    assert identity(cpu) == identity(copy.build())
    assert [] == false_names(copy.home)
    assert [] == leftovers(copy.home)


def test_a_build_after_a_gc_that_was_killed_is_right(
    copy: Kiln, cpu: dict[str, Any], start: Callable[..., subprocess.Popen[str]]
) -> None:
    copy.build()
    process = start(*_GC)
    before = len(_garbage(copy))
    while process.poll() is None and len(_garbage(copy)) == before:
        pass
    kill(process)

    assert -signal.SIGKILL == process.returncode
    assert 0 < len(_garbage(copy)) < before
    assert identity(cpu) == identity(copy.build())
    assert [] == false_names(copy.home)
    assert copy(*_GC).returncode == 0
    assert [] == json.loads(copy("gc", "--unused", "0", "--json").stdout)["going"]
    assert identity(cpu) == identity(copy.build())
    assert [] == leftovers(copy.home)


@pytest.mark.slow
def test_the_tree_that_a_command_runs_in_stays(
    copy: Kiln, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Also where the image is no longer that of a lock, so that its tree is garbage."""
    process = start("run", "--cpu", "--", "sh", "-c", "sleep 3; python -c 'import torch'")
    sandbox = f"/proc/{process.pid}/task/{process.pid}/children"
    assert wait_for(lambda: bool(Path(sandbox).read_text()), 90)
    shutil.rmtree(copy.home / "records/layers")

    would = json.loads(copy("gc", "--unused", "0", "--json").stdout)
    refused = copy("gc", "--remove")
    done = finish(process)

    assert any(thing["path"].startswith("trees/image-") for thing in would["going"])
    assert StoreError.exit_code == refused.returncode, refused.stderr
    assert f"{process.pid}: " in refused.stderr
    assert done.returncode == 0, done.stderr
    assert copy(*_GC).returncode == 0
    assert not list((copy.home / "trees").glob("image-*"))


def test_another_clone_with_other_locks_loses_nothing_to_a_gc_until_it_is_gone(
    copy: Kiln, cpu: dict[str, Any]
) -> None:
    copy.build()
    with folder() as place:
        copy_clone(place / "clone")
        _relock(place / "clone", without="tzdata")
        other = replace(copy, clone=place / "clone")
        theirs = other.build()
        assert theirs["digest"] != cpu["digest"]
        for path in copy.home.glob("[!lr]*/**/*"):  # all but `locks` and `records`
            os.utime(path, (0, 0), follow_symlinks=False)
        assert other("gc", "--remove").returncode == 0
        assert set() == _garbage(copy)
        assert [] == _missing(copy, cpu)
        assert copy("gc", "--remove").returncode == 0
        assert [] == _missing(copy, theirs)
        done = replace(copy, prefix=OFFLINE)("run", "--cpu", "--", "python", "-c", "import torch")
        assert done.returncode == 0, done.stderr
        shutil.rmtree(place / "clone")
        (place / "other").touch()  # an empty folder might be where nothing is mounted now
        gone = copy("gc", "--remove")

        (line,) = (one for one in gone.stdout.splitlines() if str(place) in one)
        assert "folder not found" in line
        assert {layer["digest"] for layer in theirs["layers"]} - {
            layer["digest"] for layer in cpu["layers"]
        } == set(_missing(copy, theirs))
        assert [] == _missing(copy, cpu)
    assert identity(cpu) == identity(copy.build())


def _relock(clone: Path, *, without: str) -> None:
    """Write the CPU's lock of a clone anew, without one of its wheels."""
    found = catalog.load(clone / "images/variants.yaml")
    lock = read_variant_lock(clone, found, found.variant("cpu"))
    wheels = tuple(wheel for wheel in lock.wheels if wheel.name != without)
    assert wheels != lock.wheels
    variant_lock_path(clone, "cpu").write_text(dump(replace(lock, wheels=wheels)))


def _missing(kiln: Kiln, built: dict[str, Any]) -> list[str]:
    """Return the digests of an image's layers that the store lacks."""
    digests = [layer["digest"] for layer in built["layers"]]
    return [digest for digest in digests if not kiln.store.has(_hex(digest))]


def _forget(kiln: Kiln, built: dict[str, Any], name: str) -> None:
    """Let a layer be made again: remove its record and its blob."""
    digest = next(_hex(layer["digest"]) for layer in built["layers"] if layer["name"] == name)
    kiln.store.blob(digest).unlink()
    for record in (kiln.home / "records/layers").iterdir():
        if digest in record.read_text():
            record.unlink()


def _garbage(kiln: Kiln) -> set[str]:
    """Return which of the blobs that no lock names are there."""
    return {name for name in _GARBAGE if kiln.store.has(name)}


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
