from __future__ import annotations

import errno
import gzip
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from wheels import chance

from torchkiln.errors import ArchiveError
from torchkiln.layer import Entry, Layer, write_layer
from torchkiln.store import Store
from torchkiln.tree import image_tree, layer_tree

if TYPE_CHECKING:
    from pathlib import Path

BASE = (
    Entry.text("usr/bin/sh", b"#!", mode=0o755),
    Entry.link("bin", "usr/bin"),
    Entry.directory("tmp", 0o1777),
    Entry.directory("root", 0o700),
)
WHEELS = (Entry.text("opt/venv/x.py", b"x = 1\n"), Entry.text("usr/bin/tool", b"tool"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Give an empty store."""
    return Store(tmp_path / "store")


def layer(store: Store, name: str, *entries: Entry) -> Layer:
    with store.workspace() as folder:
        made = write_layer(folder / "layer", name, entries)
        store.adopt(folder / "layer", made.digest)
    return made


def listing(root: Path) -> dict[str, str]:
    found = {}
    for path in root.rglob("*"):
        mode = f"{stat.S_IMODE(path.lstat().st_mode):o}"
        if path.is_symlink():
            found[str(path.relative_to(root))] = f"-> {path.readlink()}"
        else:
            text = path.read_text() if path.is_file() else "/"
            found[str(path.relative_to(root))] = f"{mode} {text}"
    return found


def test_layer_is_unpacked_once(store: Store) -> None:
    made = layer(store, "base", *BASE)
    tree = layer_tree(store, made)
    (tree / "marker").touch()

    assert tree == layer_tree(store, made)
    assert (tree / "marker").exists()


def test_image_is_the_union_of_its_layers(store: Store) -> None:
    tree = image_tree(store, [layer(store, "base", *BASE), layer(store, "wheels", *WHEELS)])

    assert {
        "bin": "-> usr/bin",
        "opt": "755 /",
        "opt/venv": "755 /",
        "opt/venv/x.py": "644 x = 1\n",
        "root": "700 /",
        "tmp": "1777 /",
        "usr": "755 /",
        "usr/bin": "755 /",
        "usr/bin/sh": "755 #!",
        "usr/bin/tool": "644 tool",
    } == listing(tree)


def test_layers_of_an_image_may_come_in_any_order(store: Store) -> None:
    layers = [layer(store, "base", *BASE), layer(store, "wheels", *WHEELS)]

    assert listing(image_tree(store, layers)) == listing(image_tree(store, layers[::-1]))


def test_image_takes_no_space_of_its_own(store: Store) -> None:
    made = layer(store, "base", *BASE)

    assert (image_tree(store, [made]) / "usr/bin/sh").samefile(
        layer_tree(store, made) / "usr/bin/sh"
    )


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_without_hard_links_an_image_is_copied_and_that_is_told(
    store: Store, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within one folder alone some file systems allow them, others allow none."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    large = Entry.text("opt/large", b"x" * 2_000_000, mode=0o755)
    layers = [layer(store, "base", *BASE, large), layer(store, "wheels", *WHEELS)]
    expected = listing(image_tree(Store(store.root, store.root / "linked"), layers))
    monkeypatch.setattr("os.link", refuse)
    tree = image_tree(store, layers)

    assert expected == listing(tree)
    assert 1 == (tree / "opt/large").stat().st_nlink
    assert f"no hard links in {store.trees}: copied 2 MB" in capsys.readouterr().err


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_are_the_layers_under_any_umask(store: Store, umask: int) -> None:
    before = os.umask(umask)
    try:
        tree = image_tree(store, [layer(store, "base", *BASE), layer(store, "wheels", *WHEELS)])
    finally:
        os.umask(before)

    assert ["1777 /", "755 /", "755 #!"] == [
        listing(tree)[path] for path in ("tmp", "opt", "usr/bin/sh")
    ]
    assert 0o755 == stat.S_IMODE(tree.stat().st_mode)


def test_blob_that_is_not_what_it_was_is_refused_and_nothing_is_left(store: Store) -> None:
    made = layer(store, "base", *BASE)
    blob = store.blob(made.digest)
    tar = bytearray(gzip.decompress(blob.read_bytes()))
    tar[-1] ^= 1  # in the padding, which no reader of tars looks at
    blob.unlink()
    blob.write_bytes(gzip.compress(bytes(tar)))

    with pytest.raises(ArchiveError, match="not what it was: base"):
        layer_tree(store, made)
    assert [] == sorted((store.root / "tmp").iterdir())
    assert not (store.root / "trees" / made.diff_id).exists()


def test_hostile_layer_leaves_nothing(store: Store) -> None:
    with store.workspace() as folder:
        made = write_layer(folder / "layer", "evil", [Entry.text("../../../evil", b"evil")])
        store.adopt(folder / "layer", made.digest)

    with pytest.raises(ArchiveError, match="leaves its folder"):
        image_tree(store, [made])
    assert [] == [path for path in store.root.parent.rglob("evil") if path.is_file()]
    assert [] == sorted((store.root / "tmp").iterdir())


def test_two_at_once_make_one_tree(store: Store) -> None:
    files = [Entry.text(f"f{number}", b"x") for number in range(300)]
    layers = [layer(store, "base", *BASE), layer(store, "many", *files)]
    with ThreadPoolExecutor(4) as pool:
        trees = set(pool.map(lambda _: image_tree(store, layers), range(8)))

    assert 1 == len(trees)
    assert 300 == len(list(trees.pop().glob("f*")))


def test_layer_does_not_write_through_a_link_of_another(store: Store) -> None:
    outside = store.root.parent / "outside"
    outside.mkdir()
    layers = [
        layer(store, "link", Entry.link("out", str(outside))),
        layer(store, "evil", Entry.text("out/evil", b"evil")),
    ]

    with pytest.raises(ArchiveError, match="out"):
        image_tree(store, layers)
    assert [] == list(outside.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        "flip",
        "not gzip",
        "empty",
    ],
)
def test_blob_that_no_longer_unpacks_is_refused_by_its_name(store: Store, damage: str) -> None:
    made = layer(store, "base", Entry.text("x", chance(5).randbytes(200_000)))
    blob = store.blob(made.digest)
    data = blob.read_bytes()
    half = len(data) // 2
    blob.unlink()
    blob.write_bytes(
        {
            "cut": data[:half],
            "flip": data[:half] + bytes(100) + data[half + 100 :],
            "not gzip": b"no gzip at all",
            "empty": b"",
        }[damage]
    )

    with pytest.raises(ArchiveError, match="base"):
        layer_tree(store, made)
    assert [] == sorted((store.root / "tmp").iterdir())


def test_padding_that_no_reader_of_tars_asks_for_is_hashed_too(store: Store) -> None:
    """The first block of zeros ends a record of tar and a read of 1 MiB; the second comes after."""
    size = (5 << 20) - 2 * 512
    made = layer(store, "base", Entry(path="x", size=size, chunks=lambda: (bytes(size),)))

    assert (5 << 20) + 10240 == made.unpacked
    assert size == (layer_tree(store, made) / "x").stat().st_size


def test_tree_is_named_by_what_is_in_it(store: Store) -> None:
    made = layer(store, "base", *BASE)
    diff_id = hashlib.sha256(gzip.decompress(store.blob(made.digest).read_bytes())).hexdigest()

    assert store.root / "trees" / diff_id == layer_tree(store, made)
