"""Bundles of a few bytes: what is written comes back, and nothing else is ever taken."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from torchkiln import bundle, bundle_loader, bundle_source, pipeline
from torchkiln.bundle import Item, _blob, _item
from torchkiln.bundle_format import END, INDEX, ROLES, SUMS, Index, Part, parse, part
from torchkiln.bundle_loader import load
from torchkiln.errors import ArchiveError, BuildError, HostError
from torchkiln.layer import Layer
from torchkiln.lockfile import lock_hash
from torchkiln.projects import records

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchkiln.pipeline import Project

ROOT = Path(__file__).parents[2]
BLOBS = {role: f"a {role}".encode() * 40 for role in ("wheel", "deb", "config", "manifest")}
LAYER = b"a layer" * 100
KEY = "12" * 32


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def project(home: Path) -> Project:
    return pipeline.open_project(ROOT, {"TORCHKILN_HOME": str(home)})


@pytest.fixture
def site(tmp_path: Path) -> Project:
    """The project of a site without a network, its store empty."""
    return project(tmp_path / "site")


def items(home: Path) -> list[Item]:
    """Return a file of each role, those of blobs from a store."""
    store = project(home).store
    layer = Layer(
        name="l", diff_id="0" * 64, digest=store.put(LAYER), size=len(LAYER), unpacked=700
    )
    texts = {
        "loader": ("load", b"#!/bin/sh\n"),
        "source": ("torchkiln.tar", b"tar"),
        "requirement": ("requirements/invoke-1.0-py3-none-any.whl", b"wheel"),
        "lock": ("locks/cpu.json", (ROOT / "envs/cpu/lock.json").read_bytes()),
        "sbom": ("sbom/cpu.spdx.json", b"{}"),
        "record": (f"records/{KEY}", json.dumps(vars(layer)).encode()),
    }
    made = [_item(role, path, data) for role, (path, data) in texts.items()]
    blobs = [_blob(store, role, store.put(data), f"the {role}") for role, data in BLOBS.items()]
    found = [*made, *blobs, _blob(store, "layer", layer.digest, "the layer")]
    return sorted(found, key=lambda one: one.part.order)


def written(folder: Path, made: list[Item]) -> tuple[Path, Index]:
    """Write a bundle of these files and return it with what its `bundle.json` says."""
    parts = tuple(one.part for one in made)
    index = Index(variants=("cpu",), images={}, python="3.11", parts=parts)
    bundle._write(folder / "bundle.tar", index, made)
    return folder / "bundle.tar", index


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, Index]:
    """A bundle with a file of each role."""
    return written(tmp_path, items(tmp_path / "home"))


def place(index: Index, path: str) -> int:
    """Return where the bytes of a file begin."""
    return dict(bundle_loader._places(index))[path]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def refused(site: Project, path: Path, text: str = "") -> None:
    """See that the bundle is refused, by name, and that nothing of it is in the store."""
    with pytest.raises(ArchiveError) as caught:
        load(site, path)
    assert text in str(caught.value)
    assert not site.store.root.exists()


def test_every_role_is_here(good: tuple[Path, Index]) -> None:
    assert set(ROLES) == {one.role for one in good[1].parts}


def test_what_was_written_comes_back_under_its_names(
    site: Project, good: tuple[Path, Index]
) -> None:
    loaded = load(site, good[0])

    for data in (*BLOBS.values(), LAYER):
        assert data == site.store.blob(sha256(data)).read_bytes()
    record = site.store.read_record("layers", KEY)
    assert record
    assert sha256(LAYER) == record["digest"]
    assert loaded.received == sum(map(len, BLOBS.values())) + len(LAYER)
    assert "envs/cpu/lock.json" not in loaded.other_locks


def test_what_was_loaded_is_the_projects_wherever_gc_runs(
    site: Project, good: tuple[Path, Index]
) -> None:
    load(site, good[0])

    (found,) = records(site.store)
    assert (ROOT, "cpu") == (found.root.project, found.root.variant)
    assert lock_hash(ROOT / "envs/cpu/lock.json") == found.root.lock
    assert {sha256(BLOBS[role]) for role in ("wheel", "deb")} == found.root.inputs
    assert {KEY} == found.root.layers


def test_a_bundle_is_as_long_as_it_says_and_twice_the_same(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    first, index = written(tmp_path / "a", items(tmp_path / "home"))
    second, _ = written(tmp_path / "b", items(tmp_path / "home"))

    assert index.length == first.stat().st_size
    assert first.read_bytes() == second.read_bytes()


def test_tar_and_sha256sum_read_it_too(tmp_path: Path, good: tuple[Path, Index]) -> None:
    place = tmp_path / "plain"
    place.mkdir()
    subprocess.run(["tar", "-xf", good[0], "-C", place], check=True)
    subprocess.run(["sha256sum", "--quiet", "--strict", "-c", SUMS], cwd=place, check=True)

    found = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert {INDEX, SUMS, *(one.path for one in good[1].parts)} == found
    assert (place / "load").stat().st_mode & 0o100


@pytest.mark.parametrize("role", [*ROLES, INDEX, SUMS])
def test_a_flipped_byte_is_refused_by_the_files_name(
    site: Project, good: tuple[Path, Index], role: str
) -> None:
    path, index = good
    one = next(one for one in index.all_parts if role in {one.role, one.path})
    flip(path, place(index, one.path) + one.size // 2)
    refused(site, path, one.name)


def test_there_is_no_byte_that_may_be_another(site: Project, good: tuple[Path, Index]) -> None:
    """Headers, contents, what lies between files, the end."""
    path, _ = good
    data = path.read_bytes()
    for offset in range(0, len(data), 61):
        changed = bytearray(data)
        changed[offset] ^= 0x10
        path.write_bytes(changed)
        refused(site, path)
    path.write_bytes(data)
    assert load(site, path).received


def test_there_is_no_length_at_which_it_may_be_cut(site: Project, good: tuple[Path, Index]) -> None:
    path, _ = good
    data = path.read_bytes()
    for length in [*range(0, len(data), 331), len(data) - 1]:
        path.write_bytes(data[:length])
        refused(site, path)
    path.write_bytes(data + b"\0")
    refused(site, path, "behind its last file")


def member(name: str, data: bytes = b"", **fields: Any) -> bytes:  # noqa: ANN401
    """Return a tar's member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


@pytest.mark.parametrize(
    ("added", "text"),
    [
        (member("extra", b"one more"), "a file `extra` of 8 bytes"),
        (member("../../evil", b"out"), "a file `../../evil`"),
        (member("blobs/sha256/x", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "symbolic link"),
        (member("load", b"again"), "a file `load`"),
        (member("x", type=tarfile.CHRTYPE), "something else `x`"),
    ],
)
def test_one_more_member_is_refused_wherever_it_comes(
    site: Project, good: tuple[Path, Index], added: bytes, text: str
) -> None:
    path, index = good
    data = path.read_bytes()
    for one in index.parts:
        start = place(index, one.path) - len(one.header)
        path.write_bytes(data[:start] + added + data[start:])
        refused(site, path, text)
    path.write_bytes(data.removesuffix(END) + added + END)
    refused(site, path, "behind its last file")


def _path(path: str) -> Callable[[Part], Part]:
    return lambda one: replace(one, path=path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_path("sbom/../../evil"), "there may be no such file"),
        (_path("/etc/passwd"), "there may be no such file"),
        (_path("locks/cpu.json"), "there may be no such file"),
        (lambda one: replace(one, role="virus"), "there may be no such file"),
        (lambda one: replace(one, sha256="0" * 63), "invalid sha256"),
        (lambda one: replace(one, size=-1), "invalid size"),
        (lambda one: replace(one, size=True), "invalid size"),
        (lambda one: replace(one, name="\x1b[2J"), "control characters"),
    ],
)
def test_a_bundle_that_agrees_with_itself_is_still_refused_for_what_it_names(
    site: Project,
    tmp_path: Path,
    change: Callable[[Part], Part],
    text: str,
) -> None:
    made = items(tmp_path / "home")
    number = next(n for n, one in enumerate(made) if one.part.role == "sbom")
    made[number] = replace(made[number], part=change(made[number].part))
    refused(site, _forged(tmp_path, made), text)


def _forged(folder: Path, made: list[Item]) -> Path:
    """Write a bundle as the enemy would: index, sums and headers all agree."""
    index = Index(
        variants=("cpu",), images={}, python="3.11", parts=tuple(one.part for one in made)
    )
    sources = {INDEX: index.data, SUMS: index.sums} | {one.part.path: one.source for one in made}
    stream = io.BytesIO()
    for one in index.all_parts:
        source = sources[one.path]
        data = source if isinstance(source, bytes) else source.read_bytes()
        size = max(one.size, 0)
        stream.write(replace(one, size=size).header + data + one.padding)
    stream.write(END)
    path = folder / "forged.tar"
    path.write_bytes(stream.getvalue())
    return path


def test_a_path_named_twice_is_refused(site: Project, tmp_path: Path) -> None:
    made = items(tmp_path / "home")
    refused(
        site, _forged(tmp_path, sorted([*made, made[3]], key=lambda one: one.part.order)), "twice"
    )


def test_a_blob_under_another_hash_is_refused(site: Project, tmp_path: Path) -> None:
    made = items(tmp_path / "home")
    number = next(n for n, one in enumerate(made) if one.part.role == "wheel")
    forged = part("wheel", made[number].part.path, "the wheel", b"another wheel")
    made[number] = Item(part=forged, source=b"another wheel")
    refused(site, _forged(tmp_path, made), "another name than its hash")


def test_a_record_of_a_layer_that_is_not_there_is_refused(site: Project, tmp_path: Path) -> None:
    made = [one for one in items(tmp_path / "home") if one.part.role != "layer"]
    refused(site, _forged(tmp_path, made), "not that of a layer")


def test_another_form_is_called_that(site: Project, good: tuple[Path, Index]) -> None:
    path, _ = good
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
    refused(site, path, "for another Torchkiln")


def test_an_index_in_another_spelling_is_refused(good: tuple[Path, Index]) -> None:
    data = good[1].data
    assert parse(data, "b") == good[1]
    with pytest.raises(ArchiveError, match="not the bundle") as caught:
        parse(data.replace(b'"format":1', b'"format": 1'), "b")
    assert "not written as" in str(caught.value)


def test_what_is_no_bundle_is_called_that(site: Project, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a shopping list" * 100)
    refused(site, tmp_path / "x", f"does not begin with {INDEX}")
    refused(site, tmp_path / "absent", "No such file")


def test_another_lock_is_told(site: Project, tmp_path: Path) -> None:
    made = items(tmp_path / "home")
    number = next(n for n, one in enumerate(made) if one.part.role == "lock")
    made[number] = _item("lock", "locks/cpu.json", b"{}")
    path, _ = written(tmp_path, made)
    assert "envs/cpu/lock.json" in load(site, path).other_locks


KILLED = """
import os, signal, sys
from pathlib import Path
from torchkiln import pipeline
from torchkiln.bundle_loader import load
from torchkiln.store import Store

adopt, left = Store.adopt, [2]

def killed(self, path, sha256):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return adopt(self, path, sha256)

Store.adopt = killed
load(pipeline.open_project(Path(sys.argv[1]), {"TORCHKILN_HOME": sys.argv[2]}), Path(sys.argv[3]))
"""


def test_a_load_that_was_killed_goes_on_where_it_was(
    site: Project, good: tuple[Path, Index]
) -> None:
    command = [sys.executable, "-c", KILLED, str(ROOT), str(site.store.root), str(good[0])]
    assert -9 == subprocess.run(command, cwd=ROOT, check=False).returncode
    assert site.store.read_record("layers", KEY) is None

    loaded = load(site, good[0])
    first = [one.size for one in good[1].parts if one.role in BLOBS or one.role == "layer"][:2]
    assert sum(first) == loaded.present
    assert not list((site.store.root / "tmp").iterdir())
    assert 0 == load(site, good[0]).received


def test_a_disk_without_room_is_told_before_the_first_byte(
    site: Project, good: tuple[Path, Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(f_bavail=0, f_frsize=4096)
    monkeypatch.setattr("torchkiln.host.os.statvfs", lambda _: full)
    with pytest.raises(HostError, match="too little disk space"):
        load(site, good[0])


def test_a_file_that_changes_while_it_is_bundled_leaves_no_bundle(tmp_path: Path) -> None:
    made = items(tmp_path / "home")
    blob = project(tmp_path / "home").store.blob(sha256(LAYER))
    blob.chmod(0o644)
    flip(blob, 3)
    with pytest.raises(ArchiveError, match="the layer"):
        written(tmp_path, made)
    assert [] == list(tmp_path.glob("*bundle.tar*"))


def test_the_source_is_what_git_tracks() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    data = bundle_source.source(ROOT)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert archive.getmember("kiln").mode == 0o755

    assert {"kiln", "tasks.py", "envs/cpu/lock.json", "torchkiln/bundle.py"} <= set(names)
    assert data == bundle_source.source(ROOT)


def test_a_folder_that_is_no_clone_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be listed"):
        bundle_source.source(tmp_path)
