from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandboxes import PYTHONPATH
from wheels import chance, contents, listing

from torchkiln.errors import ArchiveError
from torchkiln.layer import CHUNK, MTIME, Entry, _header, complete, write_layer

PART = st.text(st.sampled_from("abAB.é漢- "), min_size=1, max_size=60).filter(
    lambda name: name.strip(".") != "" and len(name.encode()) < 256
)
PATHS = st.lists(PART, min_size=1, max_size=4).map("/".join)
KINDS = st.one_of(
    st.builds(
        lambda data, mode: (data, mode), st.binary(max_size=1200), st.sampled_from((0o644, 0o755))
    ),
    st.builds(lambda target: (target, 0o777), st.text("ab./é", min_size=1, max_size=150)),
)


def entry(path: str, kind: bytes | str, mode: int) -> Entry:
    if isinstance(kind, bytes):
        return Entry.text(path, kind, mode=mode, owner="zoo")
    return Entry.link(path, kind, owner="zoo")


def zoo(found: dict[str, tuple[bytes | str, int]]) -> list[Entry]:
    """Return entries for the paths that no other path has for its folder."""
    folders = {str(parent) for path in found for parent in PurePosixPath(path).parents}
    return [entry(path, *kind) for path, kind in found.items() if path not in folders]


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(found=st.dictionaries(PATHS, KINDS, max_size=12), seed=st.integers(0, 99))
def test_layer_keeps_the_rules_whatever_is_in_it(
    found: dict[str, tuple[bytes | str, int]], seed: int
) -> None:
    """Sorted, parents first and explicit, unique, constant owners and times, no odd types."""
    entries = zoo(found)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "layer"
        layer = write_layer(path, "zoo", entries)
        chance(seed).shuffle(entries)
        again = write_layer(Path(name) / "again", "zoo", entries)
        blob = path.read_bytes()
        members = listing(path)
        files = contents(path)
    tar = gzip.decompress(blob)
    names = [member.rstrip("/") for member in members]

    assert layer == again
    assert (layer.digest, layer.size) == (hashlib.sha256(blob).hexdigest(), len(blob))
    assert (layer.diff_id, layer.unpacked) == (hashlib.sha256(tar).hexdigest(), len(tar))
    assert 0 == len(tar) % tarfile.RECORDSIZE
    assert sorted(names, key=str.encode) == names
    assert len(set(names)) == len(headers(tar)) == len(names)
    for member_name, member in members.items():
        parents = [str(parent) for parent in PurePosixPath(member_name).parents][:-1]
        assert all(names.index(parent) < names.index(member_name) for parent in parents)
        assert (0, 0, "", "") == (member.uid, member.gid, member.uname, member.gname)
        assert (MTIME, 0, 0) == (member.mtime, member.devmajor, member.devminor)
        assert {"path", "linkpath"} >= set(member.pax_headers)
        assert member.mode == (
            0o777 if member.issym() else 0o755 if member.isdir() else member.mode
        )
    for wanted in entries:
        member = members[wanted.path]
        assert (wanted.target or "", wanted.mode) == (member.linkname, member.mode)
        assert member.issym() or files[wanted.path] == found[wanted.path][0]


def headers(tar: bytes) -> list[bytes]:
    """Return the type flags of a tar, each checked to be ustar's; pax records are left out."""
    flags, place = [], 0
    while any(tar[place : place + 512]):
        block = tar[place : place + 512]
        assert b"ustar\x0000" == block[257:265]
        assert block[156:157] in {b"0", b"2", b"5", b"x"}
        if block[156:157] != b"x":
            flags.append(block[156:157])
        size = int(block[124:135], 8)
        place += 512 + (size + 511) // 512 * 512
    return flags


def test_layer_is_the_same_under_any_umask_clock_locale_folder_and_hash_seed(
    tmp_path: Path,
) -> None:
    program = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from torchkiln.layer import Entry, write_layer
        os.umask(int(os.environ["MASK"], 8))
        names = {f"opt/é{i}/x{i}" for i in range(50)}
        layer = write_layer(Path("layer"), "x", [Entry.text(n, n.encode() * 99) for n in names])
        print(layer.diff_id, layer.digest)
    """)
    surroundings = [
        {"MASK": "022", "TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "0"},
        {"MASK": "077", "TZ": "Asia/Kolkata", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"},
        {"MASK": "000", "TZ": "America/St_Johns", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "77"},
    ]
    seen = set()
    for number, variables in enumerate(surroundings):
        folder = tmp_path / f"folder {number}"
        folder.mkdir()
        environment = {**variables, "PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"]}
        command = [sys.executable, "-c", program]
        seen.add(subprocess.check_output(command, cwd=folder, env=environment))

    assert 1 == len(seen)


def test_golden_layer_has_the_bytes_that_were_promised(tmp_path: Path) -> None:
    """A change of these two changes every image that is out there: on purpose only."""
    entries = [
        Entry.text("opt/venv/bin/tool", b"#!/bin/sh\n", mode=0o755),
        Entry.link("opt/venv/bin/python", "/usr/bin/python3.11"),
        Entry.directory("workspace", 0o1777),
        Entry.text("opt/" + "long" * 30 + "/é.txt", b"x" * 5000),
    ]
    layer = write_layer(tmp_path / "layer", "golden", entries)

    assert "e81df9f69f6207ccf2fe7aabb40a8e2e5e2203302462d0a61966caa08dbf7c43" == layer.diff_id
    assert "bc09b944e7e79fe7776f33887aa4ee8df078589370fdffc76a90a838c3de213e" == layer.digest


def test_tar_and_gzip_of_the_system_take_the_layer(tmp_path: Path) -> None:
    path = tmp_path / "layer.gz"
    names = ["a/" + "d" * 200 + "/" + "f" * 200, "ü/漢字", "empty", "x" * 101]
    entries = [Entry.text(name, name.encode()) for name in names if name != "empty"]
    write_layer(path, "x", [*entries, Entry.text("empty", b""), Entry.link("l", "t" * 150)])
    subprocess.run(["gzip", "-t", path], check=True)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xzf", path, "-C", out, "--no-same-owner"], check=True)

    assert {name: "" if name == "empty" else name for name in names} == {
        str(file.relative_to(out)): file.read_text() for file in out.rglob("*") if file.is_file()
    }
    assert "t" * 150 == str((out / "l").readlink())


def test_gzip_header_holds_no_name_and_no_time(tmp_path: Path) -> None:
    write_layer(tmp_path / "secret-name", "x", [Entry.text("a", b"")])
    header = (tmp_path / "secret-name").read_bytes()[:10]

    assert (b"\x1f\x8b\x08\x00", bytes(4)) == (header[:4], header[4:8])


def test_size_that_ustar_cannot_say_gets_a_pax_record() -> None:
    size = 9 << 30
    header = _header(Entry(path="big", size=size, chunks=lambda: ()))
    member = tarfile.TarFile(fileobj=io.BytesIO(header + bytes(1024))).next()

    assert b"x" == header[156:157]
    assert member is not None
    assert (size, {"size": str(size)}) == (member.size, member.pax_headers)


def test_size_just_below_needs_no_pax_record() -> None:
    assert 512 == len(_header(Entry(path="big", size=(8 << 30) - 1, chunks=lambda: ())))


def test_sorting_is_by_bytes_and_no_locale() -> None:
    paths = ["b", "B", "a/z", "a.b", "a", "é", "z", "a-b/c"]
    entries = [Entry.text(path, b"") for path in paths if path != "a"]

    assert ["B", "a", "a-b", "a-b/c", "a.b", "a/z", "b", "z", "é"] == [
        entry.path for entry in complete(entries)
    ]


def test_directory_may_come_before_or_after_what_is_in_it() -> None:
    entries = [Entry.directory("tmp", 0o1777), Entry.text("tmp/x", b"")]

    assert complete(entries) == complete(entries[::-1])
    assert 0o1777 == complete(entries)[0].mode


def test_same_bytes_of_two_owners_are_one_entry() -> None:
    entries = [Entry.text("p/__init__.py", b"", owner=owner) for owner in ("one", "two")]

    assert ["p", "p/__init__.py"] == [entry.path for entry in complete(entries)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Entry.text("p", b"1", owner="one"), Entry.text("p", b"2", owner="two")),
        (Entry.text("p", b"1", owner="one"), Entry.text("p", b"1", mode=0o755, owner="two")),
        (Entry.text("p", b"1", owner="one"), Entry.link("p", "1", owner="two")),
        (Entry.link("p", "a", owner="one"), Entry.link("p", "b", owner="two")),
        (Entry.text("p", b"", owner="one"), Entry.directory("p", owner="two")),
        (Entry.directory("p", 0o755, owner="one"), Entry.directory("p", 0o1777, owner="two")),
        (Entry.text("p", b"1", owner="one"), Entry.text("p/q", b"1", owner="two")),
        (Entry.link("p", "/etc", owner="one"), Entry.text("p/q/r", b"1", owner="two")),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_owners_that_disagree_are_both_named(one: Entry, other: Entry, *, turned: bool) -> None:
    with pytest.raises(ArchiveError, match="/p") as caught:
        complete([other, one] if turned else [one, other])

    assert "`one`" in str(caught.value)
    assert "`two`" in str(caught.value)


def test_files_whose_bytes_nobody_knows_are_not_taken_for_the_same() -> None:
    files = [Entry(path="p", size=1, chunks=lambda: (b"x",), owner=owner) for owner in "ab"]

    with pytest.raises(ArchiveError, match="different contents"):
        complete(files)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_file_of_another_size_than_it_says_is_refused(tmp_path: Path, size: int) -> None:
    """A tar's header comes before the bytes; a wrong one shifts all that follows."""
    wrong = Entry(path="p", size=size, chunks=lambda: (b"abc",), owner="liar")

    with pytest.raises(ArchiveError, match="/p of liar"):
        write_layer(tmp_path / "layer", "x", [wrong])


def test_compressed_bytes_do_not_depend_on_how_files_are_cut_into_pieces(tmp_path: Path) -> None:
    data = chance(1).randbytes(CHUNK) + bytes(2 * CHUNK + 17)

    def cut(step: int) -> Entry:
        pieces = [data[place : place + step] for place in range(0, len(data), step)]
        return Entry(path="p", size=len(data), chunks=lambda: pieces)

    layers = {write_layer(tmp_path / "layer", "x", [cut(step)]) for step in (999, CHUNK, len(data))}

    assert 1 == len(layers)


def test_progress_adds_up_to_the_sizes_of_the_files(tmp_path: Path) -> None:
    told: list[int] = []
    write_layer(
        tmp_path / "l", "x", [Entry.text("a", b"123"), Entry.text("b", b"4567")], told.append
    )

    assert 7 == sum(told)


def test_layer_of_nothing_is_an_empty_tar(tmp_path: Path) -> None:
    write_layer(tmp_path / "layer", "nothing", [])

    assert bytes(tarfile.RECORDSIZE) == gzip.decompress((tmp_path / "layer").read_bytes())
