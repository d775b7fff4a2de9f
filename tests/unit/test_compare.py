from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from torchkiln.compare import Difference, layer_differences
from torchkiln.layer import Entry, write_layer

if TYPE_CHECKING:
    from pathlib import Path

ENTRIES = [
    Entry.text("etc/a", b"text"),
    Entry.text("etc/b", b"text"),
    Entry.link("etc/link", "a"),
    Entry.directory("tmp", 0o1777),
]


def member(name: str, content: bytes = b"text", **fields: Any) -> tarfile.TarInfo:  # noqa: ANN401
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def layer(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    path.write_bytes(gzip.compress(stream.getvalue()))
    return path


def differences(tmp_path: Path, **fields: Any) -> list[str]:  # noqa: ANN401
    """Return the differences of a file to the same with `fields` set."""
    first = layer(tmp_path / "1", (member("x"), b"text"))
    second = layer(tmp_path / "2", (member("x", **fields), b"text"))
    return [str(found) for found in layer_differences("l", first, second)]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("mode", 0o755, "l: /x: mode: 644 != 755"),
        ("uid", 7, "l: /x: uid: 0 != 7"),
        ("gid", 7, "l: /x: gid: 0 != 7"),
        ("uname", "me", "l: /x: uname:  != me"),
        ("gname", "us", "l: /x: gname:  != us"),
        ("mtime", 9, "l: /x: mtime: 0 != 9"),
    ],
)
def test_field_that_differs_is_named_with_both_values(
    tmp_path: Path, field: str, value: int, expected: str
) -> None:
    assert [expected] == differences(tmp_path, **{field: value})


def test_contents_of_one_size_differ_by_their_hashes(tmp_path: Path) -> None:
    first = layer(tmp_path / "1", (member("x"), b"text"))
    second = layer(tmp_path / "2", (member("x"), b"TEXT"))
    (found,) = layer_differences("l", first, second)

    assert ("/x", "content") == (f"/{found.path}", found.field)
    assert 64 == len(found.first) == len(found.second)


def test_size_and_contents_both_differ_where_a_file_grew(tmp_path: Path) -> None:
    first = layer(tmp_path / "1", (member("x"), b"text"))
    second = layer(tmp_path / "2", (member("x", b"longer"), b"longer"))

    assert ["size", "content"] == [one.field for one in layer_differences("l", first, second)]


def test_target_of_a_link_is_compared(tmp_path: Path) -> None:
    write_layer(tmp_path / "1", "l", [Entry.link("link", "a")])
    write_layer(tmp_path / "2", "l", [Entry.link("link", "b")])
    found = layer_differences("l", tmp_path / "1", tmp_path / "2")

    assert ["l: /link: linkname: a != b"] == list(map(str, found))


@pytest.mark.parametrize("turned", [False, True])
def test_file_that_became_a_folder_differs_by_type(tmp_path: Path, *, turned: bool) -> None:
    entries = [Entry.text("x", b"text"), Entry.directory("x")]
    write_layer(tmp_path / "1", "l", [entries[turned]])
    write_layer(tmp_path / "2", "l", [entries[not turned]])
    found = list(layer_differences("l", tmp_path / "1", tmp_path / "2"))

    assert {"type", "mode", "size", "content"} == {one.field for one in found}


@pytest.mark.parametrize("turned", [False, True])
def test_path_that_only_one_holds_is_named_and_nothing_after_it(
    tmp_path: Path, *, turned: bool
) -> None:
    write_layer(tmp_path / "1", "l", ENTRIES)
    write_layer(tmp_path / "2", "l", ENTRIES[1:])
    paths = (tmp_path / "2", tmp_path / "1") if turned else (tmp_path / "1", tmp_path / "2")
    values = ("absent", "there") if turned else ("there", "absent")

    assert [
        Difference(layer="l", path="etc/a", field="presence", first=values[0], second=values[1])
    ] == list(layer_differences("l", *paths))


def test_order_is_named_once(tmp_path: Path) -> None:
    members = [(member(name), b"text") for name in "abc"]
    first = layer(tmp_path / "1", *members)
    second = layer(tmp_path / "2", *members[::-1])

    assert ["l: /a: order: /a != /c"] == list(map(str, layer_differences("l", first, second)))


def test_same_layer_does_not_differ_also_where_it_is_packed_otherwise(tmp_path: Path) -> None:
    write_layer(tmp_path / "1", "l", ENTRIES)
    tar = gzip.decompress((tmp_path / "1").read_bytes())
    (tmp_path / "2").write_bytes(gzip.compress(tar, compresslevel=zlib.Z_BEST_COMPRESSION))

    assert [] == list(layer_differences("l", tmp_path / "1", tmp_path / "2"))
