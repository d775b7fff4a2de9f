from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING

import pytest
from image_archives import layer

from torchkiln.errors import ArchiveError
from torchkiln.export.filesystem import filesystem
from torchkiln.layer import Entry, Layer
from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def listed(root: Path, *contents: Sequence[Entry], added: Sequence[Entry] = ()) -> dict[str, str]:
    """Return what the file system of these layers holds, by path: text, target, or mode."""
    store = Store(root)
    layers = [layer(store, f"layer-{n}", *entries) for n, entries in enumerate(contents)]
    found: dict[str, str] = {}
    for entry in filesystem(store, layers, added):
        assert entry.path not in found
        data = b"".join(entry.chunks()).decode() if entry.chunks else None
        found[entry.path] = data if data is not None else entry.target or f"{entry.mode:o}"
    return found


def test_layers_make_one_tree(tmp_path: Path) -> None:
    found = listed(
        tmp_path,
        [Entry.text("etc/a", b"a"), Entry.link("bin", "usr/bin"), Entry.directory("tmp", 0o1777)],
        [Entry.text("etc/b", b"b"), Entry.directory("tmp", 0o1777)],
    )

    assert found == {"bin": "usr/bin", "etc": "755", "etc/a": "a", "etc/b": "b", "tmp": "1777"}


def test_what_is_added_stands_in_place_of_what_layers_have(tmp_path: Path) -> None:
    added = [Entry.text("etc/environment", b"new"), Entry.text("ch/environment", b"new")]
    found = listed(tmp_path, [Entry.text("etc/environment", b"old")], added=added)

    assert found["etc/environment"] == found["ch/environment"] == "new"


def test_parents_come_first(tmp_path: Path) -> None:
    found = list(listed(tmp_path, [Entry.text("a/b/c", b"")], [Entry.text("a/d", b"")]))

    assert all(path.rpartition("/")[0] in {"", *found[:n]} for n, path in enumerate(found))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Entry.text("bin", b""), Entry.text("bin/sh", b"")),
        (Entry.link("bin", "/etc"), Entry.text("bin/sh", b"")),
        (Entry.text("bin/sh", b""), Entry.link("bin", "usr/bin")),
    ],
    ids=["below a file", "through a link", "a link for a folder"],
)
def test_a_path_that_leads_through_anything_but_folders_is_refused(
    tmp_path: Path, first: Entry, second: Entry
) -> None:
    with pytest.raises(ArchiveError, match="/bin"):
        listed(tmp_path, [first], [second])


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("bin", tarfile.SYMTYPE, "/etc"), member("bin/passwd")],
        [member("bin"), member("bin/sh")],
        [member("opt/venv")],
        [member("../outside")],
        [member("/outside")],
        [member("device", tarfile.CHRTYPE)],
        [member("one"), member("two", tarfile.LNKTYPE, "one")],
    ],
    ids=["link", "file", "nothing", "up", "absolute", "device", "hard link"],
)
def test_a_layer_that_torchkiln_would_not_write_is_refused(
    tmp_path: Path, members: list[tarfile.TarInfo]
) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info in members:
            archive.addfile(info)
    store = Store(tmp_path)
    digest = store.put(gzip.compress(stream.getvalue()))
    made = Layer(name="odd", diff_id="", digest=digest, size=0, unpacked=0)

    with pytest.raises(ArchiveError, match=r"refused .* in layer: odd"):
        list(filesystem(store, [made], ()))


def test_a_layer_that_the_disk_has_changed_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = layer(store, "debian", Entry.text("a", b"a" * 1000))
    path = store.blob(made.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    with pytest.raises(ArchiveError, match="not what it was: debian"):
        list(filesystem(store, [made], ()))
