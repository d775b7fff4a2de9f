from __future__ import annotations

import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
from functools import partial
from typing import TYPE_CHECKING

import pytest
from wheels import chance, outcome

from torchkiln.deb import merge_usr, read_package
from torchkiln.errors import ArchiveError
from torchkiln.unpack import Unpacker

if TYPE_CHECKING:
    from pathlib import Path


def ar(*members: tuple[str, bytes]) -> bytes:
    """Return an ar archive as dpkg-deb makes it (deb(5))."""
    parts = [b"!<arch>\n"]
    for name, data in members:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        parts += [header.encode(), data, b"\n" * (len(data) % 2)]
    return b"".join(parts)


def tar(name: str = "./bin/tool", data: bytes = b"#!/bin/sh\n") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def deb(name: str, data: bytes) -> bytes:
    return ar(("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(tar())), (name, data))


def unpack_deb(path: Path, label: str, unpacker: Unpacker) -> None:
    """Unpack a package as the base does."""
    unpacker.unpack(io.BytesIO(read_package(path, label).files), label)


def unpack(folder: Path, data: bytes) -> Path:
    """Unpack the package as the base does; return the folder."""
    path = folder / "some.deb"
    path.write_bytes(data)
    root = folder / "root"
    root.mkdir(exist_ok=True)
    unpack_deb(path, "some_1.0_amd64.deb", Unpacker(root, rename=merge_usr))
    return root


def refusal(folder: Path, data: bytes) -> str:
    with pytest.raises(ArchiveError) as caught:
        unpack(folder, data)
    assert "some_1.0_amd64.deb" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("data.tar.xz", lzma.compress(tar())),
        ("data.tar.gz", gzip.compress(tar())),
        ("data.tar", tar()),
        ("data.tar.xz/", lzma.compress(tar())),  # GNU ar ends names with a slash
    ],
)
def test_files_come_out_at_their_merged_places(tmp_path: Path, name: str, data: bytes) -> None:
    root = unpack(tmp_path, deb(name, data))

    assert b"#!/bin/sh\n" == (root / "usr/bin/tool").read_bytes()
    assert [root / "usr"] == list(root.iterdir())


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_member_after_the_files_is_no_part_of_them(tmp_path: Path, pack: object) -> None:
    name = "data.tar.xz" if pack is lzma.compress else "data.tar.gz"
    data = deb(name, pack(tar())) + ar(("_gpgorigin", b"signature" * 9))[8:]  # type: ignore[operator]

    assert b"#!/bin/sh\n" == (unpack(tmp_path, data) / "usr/bin/tool").read_bytes()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="there is no `dpkg-deb` here")
@pytest.mark.parametrize("compression", ["xz", "gzip", "none"])
def test_package_that_dpkg_made_comes_out_as_dpkg_unpacks_it(
    tmp_path: Path, compression: str
) -> None:
    source = tmp_path / "source"
    for name, text in {
        "DEBIAN/control": "Package: demo\nVersion: 1\nArchitecture: all\n"
        "Maintainer: a <a@example.org>\nDescription: x\n",
        "usr/bin/tool": "#!/bin/sh\n",
        "usr/share/long/" + "n" * 150: "long",
    }.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "usr/bin/tool").chmod(0o755)
    (source / "usr/bin/link").symlink_to("tool")
    source.chmod(0o755)
    (source / "DEBIAN").chmod(0o755)
    package = tmp_path / "demo.deb"
    command = [
        "dpkg-deb",
        f"-Z{compression}",
        "--root-owner-group",
        "-b",
        str(source),
        str(package),
    ]
    subprocess.run(command, check=True, capture_output=True)
    root = unpack(tmp_path, package.read_bytes())
    theirs = tmp_path / "theirs"
    subprocess.run(["dpkg-deb", "-x", package, theirs], check=True)

    assert listing(theirs) == listing(root)


def listing(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): f"-> {path.readlink()}" if path.is_symlink()
        else f"{path.stat().st_mode:o} {path.is_file() and path.read_text()}"
        for path in root.rglob("*") if path.is_symlink() or not path.is_dir()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("bin/sh", "usr/bin/sh"),
        ("lib64/ld.so", "usr/lib64/ld.so"),
        ("lib", "usr/lib"),
        ("libx32/a/b", "usr/libx32/a/b"),
        ("usr/bin/sh", "usr/bin/sh"),
        ("library/x", "library/x"),
        ("etc/lib/x", "etc/lib/x"),
    ],
)
def test_folders_of_the_root_are_merged_into_usr(name: str, place: str) -> None:
    assert place == merge_usr(name)


def test_file_that_two_packages_hold_at_merged_places_is_refused(tmp_path: Path) -> None:
    unpacker = Unpacker(tmp_path, rename=merge_usr)
    for number, name in enumerate(("./bin/tool", "./usr/bin/tool")):
        (tmp_path / f"{number}.deb").write_bytes(deb("data.tar", tar(name)))
    unpack_deb(tmp_path / "0.deb", "zero.deb", unpacker)

    with pytest.raises(ArchiveError, match=r"one\.deb"):
        unpack_deb(tmp_path / "1.deb", "one.deb", unpacker)


@pytest.mark.parametrize("data", [b"", b"!<arch>", b"PK\3\4" + b"x" * 99])
def test_what_is_no_package_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "no ar archive" in refusal(tmp_path, data)


def test_files_do_not_go_on_in_the_next_member(tmp_path: Path) -> None:
    whole = tar(data=chance(4).randbytes(6000))
    data = deb("data.tar", whole[:4000]) + ar(("_rest", whole[4000:]))[8:]

    assert refusal(tmp_path, data)


def test_package_without_files_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    assert "data.tar.zst" in refusal(tmp_path, deb("data.tar.zst", b"zst"))


def test_package_with_two_sets_of_files_is_refused(tmp_path: Path) -> None:
    """Readers differ on which of the two they take."""
    data = deb("data.tar", tar()) + ar(("data.tar", tar("./x")))[8:]

    assert "there twice" in refusal(tmp_path, data)


@pytest.mark.parametrize("size", ["x" * 10, "-1        ", "1e3       ", "-60       ", "+5        "])
def test_member_of_no_size_is_refused(tmp_path: Path, size: str) -> None:
    data = deb("data.tar", tar())

    assert refusal(tmp_path, data[: -len(tar()) - 12] + size.encode()[:10] + b"`\n" + tar())


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bytes])
def test_package_that_is_cut_or_broken_anywhere_is_refused(tmp_path: Path, pack: object) -> None:
    name = {lzma.compress: "data.tar.xz", gzip.compress: "data.tar.gz"}.get(pack, "data.tar")  # type: ignore[call-overload]
    whole = deb(name, pack(tar(data=chance(3).randbytes(3000))))  # type: ignore[operator]
    numbers = chance(2)
    for number in range(150):
        data = bytearray(whole)
        if number % 2:
            del data[numbers.randrange(len(data)) :]
        else:
            data[numbers.randrange(len(data))] ^= numbers.randrange(1, 256)
        shutil.rmtree(tmp_path / "root", ignore_errors=True)
        said = outcome(partial(unpack, tmp_path, bytes(data)))

        assert not said or "some_1.0_amd64.deb" in said
        assert ["root", "some.deb"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("size", [10, 11])
def test_plain_package_is_the_same_with_its_files_uncompressed(tmp_path: Path, size: int) -> None:
    files = tar(data=b"x" * size) + b"\0" * (size % 2)
    path = tmp_path / "some.deb"
    path.write_bytes(deb("data.tar.xz", lzma.compress(files)))

    assert deb("data.tar", files) == read_package(path, "some").plain()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not installed")
def test_dpkg_reads_a_plain_package(tmp_path: Path) -> None:
    path, plain = tmp_path / "some.deb", tmp_path / "plain.deb"
    path.write_bytes(deb("data.tar.xz", lzma.compress(tar())))
    plain.write_bytes(read_package(path, "some").plain())

    listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", plain], capture_output=True, check=True)

    assert tar() == listed.stdout
