from __future__ import annotations

import gzip
import io
import os
import stat
import zipfile
from typing import TYPE_CHECKING

import pytest

from torchkiln.archive import inflate, member_fault, name_fault, open_gzip

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "//etc/passwd",
        "../up",
        "a/../../up",
        "a/..",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "C:\\windows",
        "a\0b",
        "a\nb",
        "a\tb",
        "a\x7fb",
        ".wh.a",
        "a/.wh..wh..opq",
        "a/.wh.b/c",
        "x" * 256,
        "é" * 128,
        "/".join(["deep"] * 700),
    ],
)
def test_name_that_leaves_its_folder_or_that_no_layer_can_hold_is_a_fault(name: str) -> None:
    assert name_fault(name)


@pytest.mark.parametrize(
    "name",
    ["a", "a/b.py", "..a", "a..", "...", ".wheel", "a.wh.b", "x" * 255, "é/漢字", "C:/x", "-rf"],
)
def test_name_that_is_merely_odd_is_no_fault(name: str) -> None:
    assert "" == name_fault(name)


def test_fault_says_what_it_is() -> None:
    names = ["/etc/passwd", "a/../b", "a/.wh.b", "a\nb", "x" * 256]
    words = ["absolute", "leaves", "deletion", "control", "longer"]

    assert all(word in name_fault(name) for name, word in zip(names, words, strict=True))


def member(name: str = "a", mode: int = 0o100644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize("kind", ["LNK", "CHR", "BLK", "IFO", "SOCK", "DIR"])
def test_member_that_is_no_file_is_a_fault(kind: str) -> None:
    assert "neither" in member_fault(member(mode=getattr(stat, f"S_IF{kind}") | 0o777))


@pytest.mark.parametrize("mode", [0, 0o644, 0o100644, 0o100755, 0o104755])
def test_member_that_is_a_file_or_says_nothing_is_no_fault(mode: int) -> None:
    assert "" == member_fault(member(mode=mode))


def test_name_that_zipfile_would_cut_at_a_nul_is_a_fault() -> None:
    info = zipfile.ZipInfo("a.py\0.txt")

    assert "a.py" == info.filename
    assert "control character" in member_fault(info)


def test_encrypted_member_is_a_fault() -> None:
    info = member()
    info.flag_bits |= 0x1

    assert "encrypted" == member_fault(info)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93])
def test_member_packed_by_an_unusual_method_is_a_fault(method: int) -> None:
    info = member()
    info.compress_type = method

    assert "compressed" in member_fault(info)


def packed(path: Path, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    with zipfile.ZipFile(path, "w", method, compresslevel=9) as archive:
        archive.writestr("first", b"before")
        archive.writestr("member", data)
        return archive.getinfo("member")


# The sizes about 1 MiB are those where the last output is full while there is more to come.
@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, MIB + 258, 2 * MIB, 2 * MIB + 5000])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("pattern", [b"\0", b"some text, again and again\n", None])
def test_inflate_gives_the_bytes_that_zipfile_gives(
    tmp_path: Path, size: int, method: int, pattern: bytes | None
) -> None:
    data = os.urandom(size) if pattern is None else (pattern * size)[:size]
    path = tmp_path / "zip"
    info = packed(path, data, method)
    pieces = list(inflate(path, info))

    with zipfile.ZipFile(path) as archive:
        assert archive.read("member") == b"".join(pieces)
    assert MIB >= max(map(len, pieces), default=0)


def test_inflate_refuses_an_offset_where_no_member_starts(tmp_path: Path) -> None:
    path = tmp_path / "zip"
    info = packed(path, b"data")
    info.header_offset += 1

    with pytest.raises(zipfile.BadZipFile, match="no member starts"):
        list(inflate(path, info))


def test_inflate_refuses_an_offset_behind_the_end(tmp_path: Path) -> None:
    path = tmp_path / "zip"
    info = packed(path, b"data")
    info.header_offset = 1 << 40

    with pytest.raises(zipfile.BadZipFile, match="no member starts"):
        list(inflate(path, info))


def test_inflate_gives_less_where_the_file_is_cut(tmp_path: Path) -> None:
    """What is missing is for the caller to see, who knows size and hash."""
    path = tmp_path / "zip"
    info = packed(path, os.urandom(5000))
    path.write_bytes(path.read_bytes()[: info.header_offset + 1000])

    assert 1000 > len(b"".join(inflate(path, info)))


def test_gzip_of_many_members_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "gz"
    stream = io.BytesIO()
    for part in (b"one", b"two"):
        stream.write(gzip.compress(part))
    path.write_bytes(stream.getvalue())

    with open_gzip(path) as opened:
        assert b"onetwo" == opened.read()
