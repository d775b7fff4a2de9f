from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import zlib
from typing import TYPE_CHECKING

import pytest
from wheels import chance

from torchkiln.export.squashfs import write_squashfs
from torchkiln.export.squashfs_tables import BLOCK, SUPERBLOCK, Inode, Run, pack, tables
from torchkiln.layer import MTIME, Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def noise(size: int) -> bytes:
    return chance(size).randbytes(size)


def file(path: str, data: bytes, cut: int) -> Entry:
    """Return a file that gives its bytes `cut` at a time."""

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(data), cut):
            yield data[start : start + cut]

    return Entry(path=path, size=len(data), chunks=chunks)


CONTENTS = {
    "empty": b"",
    "small": b"small\n",
    "part": noise(BLOCK - 1),
    "block": bytes(BLOCK),
    "more": b"x" * (BLOCK + 1) + noise(2 * BLOCK),
}


def zoo(cut: int = 1 << 20) -> list[Entry]:
    """Return a tree with each kind of thing, and each way in which contents are kept."""
    return [
        Entry.directory("data"),
        *(file(f"data/{name}", data, cut) for name, data in CONTENTS.items()),
        Entry.directory("many"),
        *(Entry.text(f"many/{n:05}-é", b"%d" % n) for n in range(4000)),
        Entry.directory("nothing", 0o1777),
        Entry.link("link", "data/small"),
        Entry.text("run", b"#!/bin/sh\n", mode=0o755),
    ]


def written(entries: Sequence[Entry]) -> bytes:
    stream = io.BytesIO()
    write_squashfs(stream, entries)
    return stream.getvalue()


def unpack(data: bytes, folder: Path) -> subprocess.CompletedProcess[str]:
    """Let squashfs-tools judge the bytes and unpack them into `folder`."""
    if not shutil.which("unsquashfs"):
        pytest.skip("not installed: unsquashfs")
    source = folder.with_name("file.squashfs")
    source.write_bytes(data)
    command = ["unsquashfs", "-no-progress", "-strict-errors", "-dest", str(folder), str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_squashfs_tools_find_all_that_was_put_in(tmp_path: Path) -> None:
    done = unpack(written(zoo()), tmp_path / "out")

    assert done.returncode == 0, done.stderr
    found = {
        str(path.relative_to(tmp_path / "out")): path.lstat()
        for path in (tmp_path / "out").rglob("*")
    }
    assert found.keys() == {entry.path for entry in zoo()}
    for name, data in CONTENTS.items():
        assert (tmp_path / "out/data" / name).read_bytes() == data
    for n in range(4000):
        assert (tmp_path / f"out/many/{n:05}-é").read_bytes() == b"%d" % n
    assert (tmp_path / "out/link").readlink() == (tmp_path / "data/small").relative_to(tmp_path)
    for entry in zoo():
        assert found[entry.path].st_mode & 0o7777 == entry.mode, entry.path
        assert found[entry.path].st_mtime == MTIME, entry.path


def test_squashfs_tools_refuse_it_where_a_byte_of_its_tables_is_another(tmp_path: Path) -> None:
    data = bytearray(written(zoo()))
    inodes = struct.unpack_from("<Q", data, 64)[0]
    data[inodes + 40] ^= 0xFF

    assert unpack(bytes(data), tmp_path / "out").returncode != 0


def test_it_is_the_same_bytes_whatever_the_pieces_and_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = written(zoo())
    for cores, cut in ((1, 1000), (7, BLOCK), (32, BLOCK * 3 + 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert expected == written(zoo(cut)), (cores, cut)


def test_the_superblock_is_what_linux_expects() -> None:
    """fs/squashfs/squashfs_fs.h, struct squashfs_super_block."""
    data = written(zoo())
    magic, inodes, time, block = struct.unpack_from("<4I", data)
    compressor, log, flags, owners, major, minor = struct.unpack_from("<6H", data, 20)
    _, used, ids, xattrs, inode, directory, fragment, lookup = struct.unpack_from("<8Q", data, 32)

    assert (magic, inodes, time, block) == (0x73717368, len(zoo()) + 1, MTIME, 1 << log)
    assert (compressor, owners, major, minor) == (1, 1, 4, 0)
    assert flags == 0x200
    assert SUPERBLOCK < inode < directory < fragment < ids < used <= len(data)
    assert xattrs == lookup == 2**64 - 1
    assert len(data) % 4096 == 0


def test_nothing_is_a_file_system_before_it_is_whole() -> None:
    """The superblock comes last: a part of the file has no magic number."""

    def entries() -> Iterator[Entry]:
        yield file("large", noise(400 * BLOCK), BLOCK)
        raise InterruptedError

    stream = io.BytesIO()
    with pytest.raises(InterruptedError):
        write_squashfs(stream, entries())

    assert len(stream.getvalue()) > BLOCK
    assert stream.getvalue()[:SUPERBLOCK] == bytes(SUPERBLOCK)


def test_it_can_stand_behind_other_bytes() -> None:
    stream = io.BytesIO()
    stream.write(bytes(4096))
    write_squashfs(stream, zoo())

    assert stream.getvalue()[4096:] == written(zoo())
    assert stream.tell() == len(stream.getvalue())


def test_blocks_that_do_not_shrink_stay_as_they_are() -> None:
    data = noise(BLOCK)

    assert pack(data) == (data, BLOCK | 1 << 24)
    assert zlib.decompress(pack(bytes(BLOCK))[0]) == bytes(BLOCK)


def test_contents_beyond_4_gib_are_found(tmp_path: Path) -> None:
    """A large image needs inodes with 64-bit places."""
    data, start = b"far" * BLOCK, 5 << 30
    packed = [pack(data[n : n + BLOCK]) for n in range(0, len(data), BLOCK)]
    path = tmp_path / "far"
    entry = Entry.text("far", data)
    end = start + sum(len(block) for block, _ in packed)
    head, tail = tables([Inode(entry, Run(start, [size for _, size in packed]))], [], end)
    with path.open("wb") as stream:
        stream.write(head)
        stream.seek(start)
        stream.writelines(block for block, _ in packed)
        stream.write(tail + bytes(-(end + len(tail)) % 4096))
    if not shutil.which("unsquashfs"):
        pytest.skip("not installed: unsquashfs")

    done = subprocess.run(["unsquashfs", "-cat", path, "far"], capture_output=True, check=True)

    assert done.stdout == data


def test_the_files_of_a_block_lie_together() -> None:
    """Small files share blocks, or 30 000 of them would be packed one by one."""
    one = written([Entry.text("a", b"the same text " * 100)])
    many = written([Entry.text(f"{n}", b"the same text " * 100) for n in range(50)])

    assert len(many) - len(one) < 8192
