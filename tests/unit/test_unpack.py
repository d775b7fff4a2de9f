from __future__ import annotations

import io
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wheels import chance, outcome

from torchkiln.errors import ArchiveError
from torchkiln.unpack import Unpacker

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE, LINK, HARD, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
Member = tuple[tarfile.TarInfo, bytes]


def member(
    name: str, data: bytes = b"", kind: bytes = FILE, target: str = "", mode: int = 0o644
) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, target, mode, len(data)
    return info, data


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def raw(info: tarfile.TarInfo, data: bytes) -> bytes:
    """Return header and padded bytes as they are, also for a type that tarfile would not write."""
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a folder to unpack into, beside files that nobody may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def unpack(root: Path, data: bytes) -> None:
    Unpacker(root).unpack(io.BytesIO(data), "some.tar")


def refusal(root: Path, *members: Member) -> str:
    """Return the error, which names the archive; nothing outside was touched."""
    with pytest.raises(ArchiveError) as caught:
        unpack(root, tar(*members))
    untouched(root)
    assert "some.tar" in str(caught.value)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def untouched(root: Path) -> None:
    """Assert that what lies beside `root` is as it was."""
    assert ["outside", "root"] == names(root.parent)
    assert ["secret"] == names(root.parent / "outside")
    assert "secret" == (root.parent / "outside/secret").read_text()


def test_files_folders_and_links_come_out_as_they_were(root: Path) -> None:
    long = "d" * 120 + "/" + "é" * 60
    unpack(
        root,
        tar(
            member("./", kind=FOLDER),
            member("./etc/", kind=FOLDER, mode=0o755),
            member("./etc/passwd", b"root\n"),
            member("usr/bin/tool", b"#!", mode=0o755),
            member(long, b"x" * 3000),
            member("etc/empty"),
            member("bin", kind=LINK, target="usr/bin"),
            member("etc/away", kind=LINK, target="/usr/../../x"),
            member("usr/bin/twin", kind=HARD, target="./usr/bin/tool"),
        ),
    )

    assert b"root\n" == (root / "etc/passwd").read_bytes()
    assert (b"x" * 3000, b"") == ((root / long).read_bytes(), (root / "etc/empty").read_bytes())
    assert ["usr/bin", "/usr/../../x"] == [
        str((root / "bin").readlink()),
        str((root / "etc/away").readlink()),
    ]
    assert (root / "usr/bin/twin").samefile(root / "usr/bin/tool")
    assert 0o755 == stat.S_IMODE((root / "usr/bin/tool").stat().st_mode)


def test_without_hard_links_a_second_name_is_a_copy(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    tool = member("bin/tool", b"#!", mode=0o755)
    unpack(root, tar(tool, member("twin", kind=HARD, target="bin/tool")))
    twin = root / "twin"

    assert (b"#!", 0o755) == (twin.read_bytes(), stat.S_IMODE(twin.stat().st_mode))
    assert not twin.samefile(root / "bin/tool")


def test_modes_keep_rwx_and_sticky_only_and_the_owner_can_read(root: Path) -> None:
    unpack(
        root,
        tar(
            member("suid", mode=0o6755),
            member("none", mode=0o000),
            member("tmp", kind=FOLDER, mode=0o3777),
            member("closed", kind=FOLDER, mode=0o000),
        ),
    )

    assert [0o755, 0o400, 0o1777, 0o700] == [
        stat.S_IMODE((root / name).stat().st_mode) for name in ("suid", "none", "tmp", "closed")
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_is_read(root: Path, form: int) -> None:
    name = "a/" + "b" * 90 + "/" + "c" * 90
    unpack(root, tar(member(name, b"x"), member("l", kind=LINK, target="t" * 99), form=form))

    assert b"x" == (root / name).read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "../outside/x",
        "a/../../outside/x",
        "/outside/x",
        "./../outside/x",
        ".//etc/x",
        "a//b",
        "a/./b",
        "a/..",
        "..",
        "a\\..\\b",
        "a\nb",
        ".wh.passwd",
        "etc/.wh..wh..opq",
        "x" * 256,
        "/".join(["deep"] * 900),
    ],
)
@pytest.mark.parametrize("kind", [FILE, FOLDER, LINK])
def test_name_that_leaves_its_folder_is_refused(root: Path, name: str, kind: bytes) -> None:
    assert refusal(root, member(name, kind=kind, target="x"))


@pytest.mark.parametrize("target", ["/", "../outside", "{outside}"])
def test_nothing_is_written_through_a_link(root: Path, target: str) -> None:
    link = member("link", kind=LINK, target=target.format(outside=root.parent / "outside"))

    assert "a folder where a link is" in refusal(root, link, member("link/x", b"evil"))


def test_folder_does_not_replace_a_link(root: Path) -> None:
    link = member("link", kind=LINK, target=str(root.parent / "outside"))

    assert "a folder where a link is" in refusal(
        root, link, member("link", kind=FOLDER, mode=0o777)
    )


@pytest.mark.parametrize("first", [FILE, LINK, FOLDER])
@pytest.mark.parametrize("second", [FILE, LINK])
def test_path_that_is_there_is_not_replaced(root: Path, first: bytes, second: bytes) -> None:
    outside = str(root.parent / "outside/secret")
    twice = [member("x", kind=kind, target=outside) for kind in (first, second)]

    assert "there already" in refusal(root, *twice)


@pytest.mark.parametrize(
    "target",
    [
        "../outside/secret",
        "/etc/passwd",
        "gone",
        "folder",
        "link",
        "folder/../../outside/secret",
        "",
    ],
)
def test_hard_link_to_what_was_not_unpacked_as_a_file_is_refused(root: Path, target: str) -> None:
    before = [
        member("folder", kind=FOLDER),
        member("link", kind=LINK, target=str(root.parent / "outside/secret")),
    ]

    assert "hard link" in refusal(root, *before, member("hard", kind=HARD, target=target))


def test_hard_link_through_a_link_is_refused(root: Path) -> None:
    before = member("out", kind=LINK, target=str(root.parent / "outside"))

    assert "hard link" in refusal(root, before, member("hard", kind=HARD, target="out/secret"))


@pytest.mark.parametrize("target", ["", "x" * 5000])
def test_link_to_what_no_system_takes_is_refused(root: Path, target: str) -> None:
    assert "`link`" in refusal(root, member("link", kind=LINK, target=target))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_device_and_fifo_are_refused(root: Path, kind: bytes) -> None:
    assert "device" in refusal(root, member("dev/node", kind=kind))
    assert not (root / "dev/node").exists()


def test_path_that_a_pax_record_puts_elsewhere_is_refused(root: Path) -> None:
    info, data = member("harmless", b"x")
    info.pax_headers = {"path": "../outside/x"}

    assert "`../outside/x`" in refusal(root, (info, data))


def test_hard_link_that_a_pax_record_puts_elsewhere_is_refused(root: Path) -> None:
    info, _ = member("hard", kind=HARD, target="harmless")
    info.pax_headers = {"linkpath": "../outside/secret"}

    assert "hard link" in refusal(root, member("harmless"), (info, b""))


def test_size_beyond_any_image_is_refused_before_a_byte_is_written(root: Path) -> None:
    info, _ = member("big")
    info.size = 1 << 40

    with pytest.raises(ArchiveError, match=r"some\.tar"):
        unpack(root, info.tobuf(tarfile.PAX_FORMAT) + bytes(2048))
    assert [] == names(root)


def test_sizes_add_up_over_archives(root: Path) -> None:
    """Two archives that each stay below the limit are not below it together."""
    info, _ = member("big")
    info.size = 40 << 30
    unpacker = Unpacker(root, rename=lambda name: name if name != "big" else "twice")
    unpacker._bytes = 40 << 30

    with pytest.raises(ArchiveError, match=r"some\.tar"):
        unpacker.unpack(io.BytesIO(info.tobuf(tarfile.PAX_FORMAT)), "some.tar")


def test_file_that_is_cut_is_refused(root: Path) -> None:
    data = tar(member("x", b"x" * 4000))

    with pytest.raises(ArchiveError, match="broken"):
        unpack(root, data[:2000])


@pytest.mark.parametrize("data", [b"", b"no tar", b"x" * 4096, chance(1).randbytes(4096)])
def test_what_is_no_tar_is_refused(root: Path, data: bytes) -> None:
    with pytest.raises(ArchiveError, match="broken"):
        unpack(root, data)


def test_names_are_mapped_and_left_out_as_told(root: Path) -> None:
    places = {"bin/sh": "usr/bin/sh", "usr/bin/sh2": "usr/bin/sh2", "usr/share/doc/x": None}
    unpacker = Unpacker(root, rename=places.get)
    data = tar(
        member("bin/sh", b"sh"),
        member("usr/share/doc/x", b"doc"),
        member("usr/bin/sh2", kind=HARD, target="./bin/sh"),
    )
    unpacker.unpack(io.BytesIO(data), "some.tar")

    assert ["usr/bin/sh", "usr/bin/sh2"] == sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()
    )


def test_second_archive_does_not_write_over_the_first(root: Path) -> None:
    unpacker = Unpacker(root)
    unpacker.unpack(io.BytesIO(tar(member("etc/x", b"1"))), "first.tar")

    with pytest.raises(ArchiveError, match=r"second\.tar"):
        unpacker.unpack(io.BytesIO(tar(member("etc/x", b"2"))), "second.tar")
    assert b"1" == (root / "etc/x").read_bytes()


def pax(name: str, **records: str) -> Member:
    info, data = member(name, b"10\nx")
    info.pax_headers = {key.replace("_", "."): value for key, value in records.items()}
    return info, data


@pytest.mark.parametrize(
    "data",
    [
        tar(pax("x", GNU_sparse_map="0,x")),
        tar(pax("x", GNU_sparse_size="x")),
        tar(pax("x", GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize="x")),
        tar(pax("x", GNU_sparse_major="1", GNU_sparse_minor="0")),
        b"".join(raw(*member("x", b"n", tarfile.GNUTYPE_LONGNAME)) for _ in range(3000)),
    ],
    ids=["map", "size", "real size", "no map", "long names"],
)
def test_header_that_python_chokes_on_is_refused(root: Path, data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"some\.tar"):
        unpack(root, data + bytes(1024))


def test_sparse_file_is_refused(root: Path) -> None:
    """A few bytes that claim gigabytes; the image spec advises against them, dpkg makes none."""
    sparse = pax("x", GNU_sparse_map="0,5", GNU_sparse_size="5000000")

    assert "sparse" in refusal(root, sparse)


@pytest.mark.parametrize("cut", [1024, 1024 + 100])
def test_archive_that_ends_early_is_refused(root: Path, cut: int) -> None:
    with pytest.raises(ArchiveError, match=r"some\.tar"):
        unpack(root, tar(member("a", b"1"), member("b", b"2"))[:cut])


NAMES = st.sampled_from(
    [
        "a",
        "a/b",
        "a/b/c",
        "b",
        "../outside/x",
        "/outside/x",
        "a/../../outside/y",
        "b/secret",
        ".wh.a",
        "a/b/",
    ]
)
TARGETS = st.sampled_from(["a", "a/b", "b", "..", "../outside", "../outside/secret", "/", ".", ""])
KINDS = st.sampled_from([*b"0123456gLKxSV"]).map(lambda code: bytes([code]))
MEMBERS = st.builds(
    member,
    NAMES,
    st.binary(max_size=600),
    KINDS,
    TARGETS,
    st.integers(0, 0o7777),
)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    members=st.lists(MEMBERS, min_size=1, max_size=6),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=3),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_hostile_tar_gives_files_inside_or_an_archive_error(
    members: Sequence[Member], flips: list[tuple[float, int]], cut: float | None
) -> None:
    data = bytearray(b"".join(raw(*one) for one in members) + bytes(1024))
    for place, value in flips:
        data[int(place * len(data))] ^= value
    if cut is not None:
        del data[int(cut * len(data)) :]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        root.mkdir()
        (root.parent / "outside").mkdir()
        (root.parent / "outside/secret").write_text("secret")
        said = outcome(lambda: unpack(root, bytes(data)))

        assert not said or "some.tar" in said
        untouched(root)
        kinds = {stat.S_IFMT(path.lstat().st_mode) for path in root.rglob("*")}
        assert {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK} >= kinds
