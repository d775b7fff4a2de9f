from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sandboxes import PYTHONPATH, needs_mounts

from torchkiln.errors import ArchiveError, StoreError
from torchkiln.store import Store, default_root, remove_tree

EMPTY = hashlib.sha256(b"").hexdigest()


def run(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start Python on `code` with Torchkiln at hand."""
    command = [*prefix, sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_blob_lies_under_its_hash_and_nothing_else_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.put(b"data")

    assert hashlib.sha256(b"data").hexdigest() == digest
    assert b"data" == store.blob(digest).read_bytes()
    assert [[digest], []] == [names(tmp_path / "blobs/sha256"), names(tmp_path / "tmp")]


def test_blob_cannot_be_written_by_mistake(tmp_path: Path) -> None:
    digest = Store(tmp_path).put(b"data")

    assert 0o444 == Store(tmp_path).blob(digest).stat().st_mode & 0o777


def test_blob_of_another_size_is_not_had_and_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.put(b"data")
    store.blob(digest).chmod(0o644)
    store.blob(digest).write_bytes(b"da")

    assert (True, False) == (store.has(digest), store.has(digest, 4))
    assert digest == store.put(b"data")
    assert store.has(digest, 4)


@pytest.mark.parametrize(
    "name", ["", "..", "0" * 63, "A" * 64, f"{'0' * 64}\n", "/etc/passwd".rjust(64, "/")]
)
def test_what_is_no_hash_has_no_place_among_blobs(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)

    for place in (store.blob, store.partial):
        with pytest.raises(StoreError, match="invalid sha256"):
            place(name)
    assert not store.has(name)


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "/a", "a\nb", "a\0b"])
def test_what_is_no_word_is_no_name_of_a_lock_or_record(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")

    with pytest.raises(StoreError, match="no file of the store"), store.exclusive(name):
        pass
    for kind, key in ((name, "k"), ("k", name)):
        assert store.read_record(kind, key) is None
        with pytest.raises(StoreError, match="no file of the store"):
            store.write_record(kind, key, {})
    assert [] == names(tmp_path)


def test_a_record_that_is_no_object_counts_for_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record("layers", "k", {})
    (tmp_path / "records/layers/k.json").write_text("[]")

    assert store.read_record("layers", "k") is None


def test_no_lock_is_opened_through_a_link(tmp_path: Path) -> None:
    """Another user of a shared store could leave one, to a file of ours."""
    store, own = Store(tmp_path / "store"), tmp_path / "own"
    (tmp_path / "store/locks").mkdir(parents=True)
    (tmp_path / "store/locks/base").symlink_to(own)

    with pytest.raises(StoreError, match="through a symbolic link"), store.exclusive("base"):
        pass
    assert not own.exists()


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "own/deep").mkdir(parents=True)
    (tmp_path / "own").chmod(0o750)
    (tmp_path / "link").symlink_to("own")

    remove_tree(tmp_path / "link")

    assert ["own"] == names(tmp_path)
    assert (0o750, ["deep"]) == ((tmp_path / "own").stat().st_mode & 0o777, names(tmp_path / "own"))


def test_nothing_is_had_in_a_store_that_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")

    assert not store.has(EMPTY)
    assert store.read_record("layers", "x") is None
    store.sweep()
    assert [] == names(tmp_path)


def test_workspace_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    def work() -> None:
        with Store(tmp_path).workspace() as folder:
            (folder / "deep/er").mkdir(parents=True)
            (folder / "deep/er/file").touch()
            (folder / "deep").chmod(0o500)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert [] == names(tmp_path / "tmp")


def test_adopted_file_appears_whole_and_at_once(tmp_path: Path) -> None:
    """A reader that polls never sees a part of it."""
    store = Store(tmp_path)
    data = b"x" * 5_000_000
    digest = hashlib.sha256(data).hexdigest()
    sizes = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            with contextlib.suppress(FileNotFoundError):
                sizes.add(store.blob(digest).stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        store.put(data)
        time.sleep(0.002)
        store.blob(digest).unlink()
    store.put(data)
    time.sleep(0.01)
    done.set()
    watcher.join()

    assert {len(data)} == sizes


HOLD = """
import sys, time
from pathlib import Path
from torchkiln.store import Store
with Store(Path(sys.argv[1])).workspace() as folder:
    (folder / "half").write_bytes(b"half")
    print(folder.name, flush=True)
    time.sleep(60)
"""


def test_sweep_removes_what_a_killed_process_left_and_leaves_what_a_live_one_has(
    tmp_path: Path,
) -> None:
    live, dead = run(HOLD, tmp_path), run(HOLD, tmp_path)
    try:
        assert live.stdout
        assert dead.stdout
        kept, left = live.stdout.readline().strip(), dead.stdout.readline().strip()
        dead.kill()
        dead.wait()
        before = names(tmp_path / "tmp")
        Store(tmp_path).sweep()
        after = names(tmp_path / "tmp")
    finally:
        for process in (live, dead):
            process.kill()
            process.communicate()

    assert {kept, left} < set(before)
    assert kept in after
    assert not [name for name in after if name.startswith(left)]


def test_sweep_while_workspaces_come_and_go_takes_none_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            store.sweep()

    def work(number: int) -> None:
        for _ in range(20):
            with store.workspace() as folder:
                (folder / str(number)).write_bytes(b"x")
                assert (folder / str(number)).is_file()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        done.set()
        sweeper.join()

    assert [] == names(tmp_path / "tmp")


def test_killed_at_any_moment_leaves_whole_blobs_only(tmp_path: Path) -> None:
    code = """
    import sys
    from pathlib import Path
    from torchkiln.store import Store
    print("on", flush=True)
    for number in range(100000):
        Store(Path(sys.argv[1])).put(str(number).encode() * 20000)
    """
    for pause in (0.0, 0.01, 0.03):
        process = run(code, tmp_path)
        assert process.stdout
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for path in (tmp_path / "blobs/sha256").glob("*"):
        assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()

    Store(tmp_path).sweep()
    assert [] == names(tmp_path / "tmp")


def test_two_processes_put_the_same_blobs(tmp_path: Path) -> None:
    code = """
    import sys
    from pathlib import Path
    from torchkiln.store import Store
    for number in range(60):
        Store(Path(sys.argv[1])).put(str(number).encode() * 1000)
    """
    processes = [run(code, tmp_path) for _ in range(3)]
    codes = [process.wait() for process in processes]
    for process in processes:
        process.communicate()

    assert [0, 0, 0] == codes
    assert 60 == len(names(tmp_path / "blobs/sha256"))
    assert [] == names(tmp_path / "tmp")


def test_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside = []

    def work(_: int) -> None:
        with Store(tmp_path).exclusive("tree"):
            inside.append(1)
            assert 1 == len(inside)
            time.sleep(0.002)
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(20)))


def test_locks_of_other_names_do_not_wait(tmp_path: Path) -> None:
    store = Store(tmp_path)

    with store.exclusive("one"), store.exclusive("two"):
        assert ["one", "two"] == names(tmp_path / "locks")


def test_records_are_kept_and_broken_ones_are_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record("layers", "key", {"digest": "x"})

    assert {"digest": "x"} == store.read_record("layers", "key")
    (tmp_path / "records/layers/key.json").write_text('{"digest": "x')
    assert store.read_record("layers", "key") is None


FULL = """
import sys
from pathlib import Path
from torchkiln.errors import ArchiveError, StoreError
from torchkiln.store import Store
store = Store(Path(sys.argv[1]))
kept = store.put(b"small")
try:
    store.put(b"x" * 3_000_000)
except StoreError as error:
    print(str(error).splitlines()[1].strip())
print(sorted(path.name for path in store.root.glob("blobs/sha256/*")) == [kept])
print(list(store.root.glob("tmp/*")))
"""
IN_SMALL_TMPFS = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'


@needs_mounts
def test_full_disk_is_a_store_error_and_names_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    prefix = ("unshare", "-rm", "sh", "-c", IN_SMALL_TMPFS, "sh", str(folder))
    out, _ = run(FULL, folder, prefix=prefix).communicate()

    assert ["No space left on device", "True", "[]"] == out.splitlines()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_store_that_may_not_be_written_is_a_store_error_with_a_hint(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(StoreError, match="Permission denied") as caught:
        Store(tmp_path / "store").put(b"x")
    assert "TORCHKILN_HOME" in caught.value.hint


def test_store_that_is_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "store").touch()

    with pytest.raises(StoreError, match="store"):
        Store(tmp_path / "store").put(b"x")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TORCHKILN_HOME": "/data/kiln", "HOME": "/home/a"}, "/data/kiln"),
        ({"XDG_CACHE_HOME": "/cache", "HOME": "/home/a"}, "/cache/torchkiln"),
        (
            {"TORCHKILN_HOME": "", "XDG_CACHE_HOME": "", "HOME": "/home/a"},
            "/home/a/.cache/torchkiln",
        ),
        ({"HOME": "/home/a"}, "/home/a/.cache/torchkiln"),
    ],
)
def test_place_of_the_store(environ: dict[str, str], expected: str) -> None:
    assert Path(expected) == default_root(environ)


def test_relative_place_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert tmp_path / "here" == default_root({"TORCHKILN_HOME": "here"})


def test_tree_with_folders_that_cannot_be_written_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o555)
    folder = tmp_path / "tree"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").touch()
    (folder / "link").symlink_to(outside)
    for closed in (folder / "a/b", folder / "a"):
        closed.chmod(0o555)
    remove_tree(folder)

    assert not folder.exists()
    assert 0o555 == outside.stat().st_mode & 0o777


def test_blob_that_the_disk_changed_is_not_given_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha256 = store.put(b"right")
    assert store.blob(sha256) == store.checked(sha256, "numpy")
    store.blob(sha256).chmod(0o644)
    store.blob(sha256).write_bytes(b"wrong")

    with pytest.raises(ArchiveError, match="not what it was: numpy") as caught:
        store.checked(sha256, "numpy")
    assert f"rm {store.blob(sha256)}, then build again" == caught.value.hint
