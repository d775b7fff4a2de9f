"""Builds that are killed, starved of disk, or not alone: the next one is right and the same."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from engines import require, require_root
from kiln_runs import (
    Kiln,
    false_names,
    finish,
    folder,
    identity,
    kill,
    leftovers,
    output,
    share,
)

from torchkiln.errors import HostError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
BUILD: Final = ("build", "--cpu", "--no-smoke")


@pytest.fixture
def with_base(kiln: Kiln, cpu: dict[str, Any], fetched: Kiln) -> Kiln:
    """`./kiln` with a store that holds the inputs and the base, so that layers come first."""
    base = cpu["layers"][0]
    share(kiln.home, fetched.home, [base["digest"].removeprefix("sha256:")])
    for record in (kiln.home / "records/layers").iterdir():
        if base["diff_id"].removeprefix("sha256:") in record.read_text():
            copy = fetched.home / "records/layers" / record.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(record.read_bytes())
    return fetched


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_builds_killed_at_any_point_leave_a_store_to_be_trusted(
    cpu: dict[str, Any], fetched: Kiln, kills: int
) -> None:
    """Each build is killed when it has written more than the one before, and goes on from that."""
    chance = random.Random(kills)  # noqa: S311 - the same points each time
    inputs, total = _written(fetched.home), sum(layer["size"] for layer in cpu["layers"])
    killed = 0
    for part in sorted(chance.uniform(0.01, 0.99) for _ in range(kills)):
        process = fetched.start(*BUILD)
        while process.poll() is None and _written(fetched.home) < inputs + part * total:
            time.sleep(0.02)
        killed += process.poll() is None
        kill(process)
        assert [] == false_names(fetched.home), f"killed at {part:.0%}"

    again = fetched.build()

    assert killed >= kills // 2
    assert identity(cpu) == identity(again)
    assert [] == leftovers(fetched.home)


def _written(home: Path) -> int:
    """Return how many bytes lie in the store, done or in progress."""
    total = 0
    for top in ("blobs", "tmp"):
        for parent, _, files in os.walk(home / top):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    total += Path(parent, name).lstat().st_size
    return total


def test_fetches_killed_at_any_point_keep_no_false_file(scratch: Path) -> None:
    interrupted = Kiln(home=scratch)
    for delay in (0.6, 0.9, 1.2):
        process = interrupted.start("fetch", "--cpu")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        kill(process)
        assert [] == false_names(scratch), f"killed after {delay:.1f} s"

    done = interrupted("fetch", "--cpu")

    assert done.returncode == 0, done.stderr
    assert [] == false_names(scratch)
    assert [] == list((scratch / "partial").iterdir())


def test_two_builds_at_once_give_one_image(cpu: dict[str, Any], fetched: Kiln) -> None:
    processes = [fetched.start(*BUILD, "--json") for _ in range(2)]
    done = [finish(process) for process in processes]

    assert [0, 0] == [one.returncode for one in done], "\n".join(one.stderr for one in done)
    assert identity(cpu) == identity(fetched.build())
    assert done[0].stdout.splitlines()[:3] == done[1].stdout.splitlines()[:3]
    assert [] == false_names(fetched.home)
    assert [] == leftovers(fetched.home)


@pytest.mark.parametrize(
    ("start", "sign"),
    [
        pytest.param("fetched", "tmp/*/root/usr/bin/dpkg", id="unpacking", marks=pytest.mark.slow),
        pytest.param("fetched", "tmp/*/root/var/lib/dpkg/info/bash.list", id="dpkg"),
        pytest.param("with_base", "tmp/*/layer", id="layers"),
    ],
)
def test_a_disk_that_fills_up_stops_the_build_with_an_error_and_no_false_file(
    request: pytest.FixtureRequest, cpu: dict[str, Any], start: str, sign: str
) -> None:
    """While the base is unpacked, while dpkg installs it, while layers are written."""
    source: Kiln = request.getfixturevalue(start)
    with small_disk(source) as disk:
        process = disk.kiln.start(*BUILD)
        while not any(disk.inside.glob(sign)) and process.poll() is None:
            time.sleep(0.01)
        disk.resize(disk.used() + (4 << 20))
        done = finish(process)

        assert StoreError.exit_code == done.returncode, done.stderr
        assert f"error: the store cannot be written: {disk.kiln.home}" in done.stderr
        assert "hint: " in done.stderr
        assert "Traceback" not in done.stderr
        assert [] == false_names(disk.inside)
        assert [] == leftovers(disk.inside)

        disk.resize(_ROOM)
        assert identity(cpu) == identity(disk.kiln.build())


def test_too_little_disk_is_told_before_any_work(fetched: Kiln) -> None:
    with small_disk(fetched) as disk:
        disk.resize(disk.used() + (4 << 20))

        done = disk.kiln(*BUILD)

        assert HostError.exit_code == done.returncode, done.stderr
        assert f"too little disk space: {disk.kiln.home}" in done.stderr
        assert not list(disk.inside.glob("records/*"))


_ROOM: Final = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A file system in memory at the store's place, that only the `kiln` here sees there."""

    kiln: Kiln
    inside: Path

    def used(self) -> int:
        """Return how many bytes are in use."""
        status = os.statvfs(self.inside)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def resize(self, size: int) -> None:
        """Change the size of the file system (bytes)."""
        change = ("mount", "-o", f"remount,size={size}", str(self.kiln.home))
        output(*self.kiln.prefix, *change)


@contextmanager
def small_disk(source: Kiln) -> Iterator[Disk]:
    """Give a disk with a copy of the store of `source`, in a mount namespace of its own."""
    require("unshare", "nsenter", "mount")
    require_root("a mount namespace with a disk of its own")
    script = 'mount -t tmpfs -o mode=755,size="$1" none "$0" && echo && read -r _'
    command = ["unshare", "--mount", "sh", "-c", script]
    with (
        folder() as home,
        subprocess.Popen(
            [*command, str(home), str(_ROOM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder,
    ):
        assert holder.stdout
        assert holder.stdout.readline() == b"\n"
        inside = Path(f"/proc/{holder.pid}/root{home}")
        shutil.copytree(source.home, inside, dirs_exist_ok=True)
        enter = ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt")
        yield Disk(kiln=Kiln(home=home, prefix=enter), inside=inside)
        holder.communicate(b"\n")
