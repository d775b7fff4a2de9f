from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from servers import cut, hang, page, serving, status
from victims import victim

from torchkiln import fetch as fetch_module
from torchkiln import pipconf
from torchkiln.errors import FetchError, StoreError
from torchkiln.fetch import FetchReport, fetch
from torchkiln.fetch_errors import DebsError
from torchkiln.lockfile import LockedDeb, LockedWheel
from torchkiln.store import Store

NOWHERE = "http://localhost:9/simple"  # the discard port: nothing listens
ROOT = Path(__file__).parents[2]
PYTHONPATH = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests/unit"}
DATA = {name: name.encode() * 50_000 for name in ("a", "b", "c", "d")}


def wheel(name: str, version: str = "1", source: str = "default") -> LockedWheel:
    return LockedWheel(
        name=name,
        version=version,
        file=f"{name}-{version}-py3-none-any.whl",
        size=len(DATA[name]),
        sha256=hashlib.sha256(DATA[name]).hexdigest(),
        source=source,
    )


def deb(name: str, archive: str = "debian") -> LockedDeb:
    return LockedDeb(
        name=name,
        version="1:2~3",
        architecture="amd64",
        archive=archive,
        filename=f"pool/main/{name}/{name}++_2~3_amd64.deb",
        size=len(DATA[name]),
        sha256=hashlib.sha256(DATA[name]).hexdigest(),
    )


def environ(**settings: str) -> dict[str, str]:
    """Return an environment in which pip knows what `settings` say and nothing else."""
    return {
        "PATH": os.environ["PATH"],
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": NOWHERE,
        "PIP_RETRIES": "0",
        "PIP_TIMEOUT": "5",
        **settings,
    }


def listing(locked: LockedWheel, url: str, **fields: Any) -> Any:  # noqa: ANN401
    """Return an index's page that offers one file."""
    file = {"filename": locked.file, "url": url, "hashes": {"sha256": locked.sha256}} | fields
    return page("application/vnd.pypi.simple.v1+json", json.dumps({"files": [file]}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def blobs(store: Store) -> list[bytes]:
    return sorted(path.read_bytes() for path in store.root.glob("blobs/sha256/*"))


def no_pip(_: Any) -> pipconf.PipConfig:  # noqa: ANN401
    pytest.fail("pip was asked")


def test_wheels_and_debs_from_all_kinds_of_sources_come_into_the_store(
    tmp_path: Path, store: Store
) -> None:
    a, b, c = wheel("a"), wheel("b"), wheel("c", "2.0+cpu", source="torch")
    (tmp_path / a.file).write_bytes(DATA["a"])
    files = {
        "/extra/b/": listing(b, f"/files/{b.file}"),
        f"/files/{b.file}": DATA["b"],
        "/torch/c/": page("text/html", '<a href="c-2.0%2Bcpu-py3-none-any.whl">c</a>'),
        "/torch/c/c-2.0%2Bcpu-py3-none-any.whl": DATA["c"],
        "/debian-security/pool/main/d/d++_2~3_amd64.deb": DATA["d"],
    }
    with serving(files) as site:
        settings = environ(
            PIP_FIND_LINKS=str(tmp_path),
            PIP_INDEX_URL=f"{site.url}/main",
            PIP_EXTRA_INDEX_URL=f"{site.url}/extra",
            TORCHKILN_DEBIAN_MIRROR=f"{site.url}/debian",
        )
        indexes = {"torch": f"{site.url}/torch"}
        report = fetch(store, [a, b, c], [deb("d", "debian-security")], indexes, settings)

    assert sorted(DATA.values()) == blobs(store)
    assert (4, 200_000) == (report.files, report.bytes_fetched)
    assert [] == list(store.root.glob("partial/*"))
    assert "/main/a/" not in site.paths()


def test_nothing_is_asked_where_all_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(DATA["a"])
    store.put(DATA["b"])
    monkeypatch.setattr(pipconf, "read", no_pip)

    report = fetch(store, [wheel("a")], [deb("b")], {}, {})

    assert FetchReport(bytes_fetched=0, files=0, seconds=report.seconds) == report


def test_a_hash_that_is_the_path_of_a_file_writes_to_none(store: Store) -> None:
    """No lock that is read has one (`test_lockfile`); the store refuses it all the same."""
    with victim() as own:
        locked = dataclasses.replace(wheel("a"), sha256=own.name, size=1)
        with pytest.raises(StoreError, match="invalid sha256"):
            fetch(store, [locked], [], {}, environ())
        assert own.is_unharmed


def test_a_link_in_the_place_of_a_partial_file_is_refused(tmp_path: Path, store: Store) -> None:
    locked = wheel("a")
    (tmp_path / locked.file).write_bytes(DATA["a"])
    store.partials.mkdir(parents=True)

    with victim() as own:
        store.partial(locked.sha256).symlink_to(own.path)
        with pytest.raises(StoreError, match="through a symbolic link"):
            fetch(store, [locked], [], {}, environ(PIP_FIND_LINKS=str(tmp_path)))
        assert own.is_unharmed


def test_blob_of_the_wrong_size_is_fetched_again(tmp_path: Path, store: Store) -> None:
    a = wheel("a")
    (tmp_path / a.file).write_bytes(DATA["a"])
    store.blob(a.sha256).parent.mkdir(parents=True)
    store.blob(a.sha256).write_bytes(b"half")

    fetch(store, [a], [], {}, environ(PIP_FIND_LINKS=str(tmp_path)))

    assert [DATA["a"]] == blobs(store)


def test_file_that_two_locks_name_is_fetched_once(store: Store) -> None:
    a = wheel("a")
    with serving({"/s/a/": listing(a, "/f"), "/f": DATA["a"]}) as site:
        report = fetch(store, [a, a], [], {}, environ(PIP_INDEX_URL=f"{site.url}/s"))

    assert (1, ["/s/a/", "/f"]) == (report.files, site.paths())


def test_wheel_is_known_by_its_hash_and_not_by_its_name(store: Store) -> None:
    """Two indexes offer files of one name, as PyPI and PyTorch's index do for torch."""
    a = wheel("a")
    other = {"sha256": "0" * 64}
    files = {
        "/one/a/": listing(a, "/wrong", hashes=other),
        "/two/a/": listing(a, "/right"),
        "/right": DATA["a"],
    }
    with serving(files) as site:
        settings = environ(PIP_INDEX_URL=f"{site.url}/one", PIP_EXTRA_INDEX_URL=f"{site.url}/two")
        fetch(store, [a], [], {}, settings)

    assert ["/one/a/", "/two/a/", "/right"] == site.paths()


def test_wrong_bytes_of_one_source_lead_to_the_next(tmp_path: Path, store: Store) -> None:
    a = wheel("a")
    (tmp_path / a.file).write_bytes(DATA["b"])
    with serving({"/s/a/": listing(a, "/f"), "/f": DATA["a"]}) as site:
        settings = environ(PIP_FIND_LINKS=str(tmp_path), PIP_INDEX_URL=f"{site.url}/s")
        fetch(store, [a], [], {}, settings)

    assert [DATA["a"]] == blobs(store)


def test_no_index_forbids_the_indexes_of_the_catalog_too(store: Store) -> None:
    with serving({}) as site, pytest.raises(FetchError) as caught:
        fetch(
            store,
            [wheel("a", source="torch")],
            [],
            {"torch": f"{site.url}/torch"},
            environ(PIP_NO_INDEX="1"),
        )

    assert [] == site.paths()
    assert "no configured package index or find-links page offers it" == caught.value.why


def test_all_failures_are_told_at_once_and_the_rest_is_fetched(
    tmp_path: Path, store: Store
) -> None:
    a, b, c = wheel("a"), wheel("b"), wheel("c")
    (tmp_path / c.file).write_bytes(DATA["c"])
    files = {
        "/s/a/": listing(a, "/a"),
        "/a": bytes(50_000),
        "/s/b/": listing(b, "/b"),
        "/b": status(403),
    }
    with serving(files) as site:
        settings = environ(
            PIP_FIND_LINKS=str(tmp_path),
            PIP_INDEX_URL=f"{site.url}/s",
            TORCHKILN_DEBIAN_MIRROR=f"{site.url}/debian",
        )
        with pytest.raises(FetchError) as caught:
            fetch(store, [a, b, c], [deb("d")], {}, settings)

    assert "3 of 4 files cannot be fetched" == caught.value.what
    assert (
        f"cannot fetch {a.file}\n  not the locked bytes: {site.url}/a: its sha256"
        in caught.value.why
    )
    assert f"cannot fetch {b.file}\n  cannot fetch {site.url}/b: HTTP 403" in caught.value.why
    assert "d++_2~3_amd64.deb" in caught.value.why
    assert [DATA["c"]] == blobs(store)


def test_deb_that_left_the_mirror_points_to_a_new_lock(store: Store) -> None:
    with serving({}) as site:
        settings = environ(TORCHKILN_DEBIAN_MIRROR=f"{site.url}/debian")
        with pytest.raises(FetchError) as caught:
            fetch(store, [], [deb("d")], {}, settings)

    assert isinstance(caught.value, DebsError)
    assert "locked Debian packages not found on the mirror: d 1:2~3" == caught.value.what
    assert ("d 1:2~3",) == caught.value.gone
    assert caught.value.why.startswith("the mirror has replaced the locked version by an update")
    assert "./kiln lock --base" == caught.value.hint


def test_deb_that_is_not_in_a_folder_has_left_it(store: Store, tmp_path: Path) -> None:
    settings = environ(TORCHKILN_DEBIAN_MIRROR=(tmp_path / "debian").as_uri())

    with pytest.raises(DebsError) as caught:
        fetch(store, [], [deb("d")], {}, settings)

    assert ("d 1:2~3",) == caught.value.gone


def test_deb_that_a_server_does_not_give_for_now_has_not_left_it(store: Store) -> None:
    with serving({f"/debian/{deb('d').filename}": status(503)}) as site:
        settings = environ(TORCHKILN_DEBIAN_MIRROR=f"{site.url}/debian")
        with pytest.raises(DebsError) as caught:
            fetch(store, [], [deb("d")], {}, settings)

    assert () == caught.value.gone


def test_a_wheel_that_is_missing_too_is_no_matter_of_debs(store: Store) -> None:
    """Another base would not help."""
    with serving({}) as site:
        settings = environ(TORCHKILN_DEBIAN_MIRROR=f"{site.url}/debian")
        with pytest.raises(FetchError, match="2 of 2 files cannot be fetched") as caught:
            fetch(store, [wheel("a")], [deb("d")], {}, settings)

    assert not isinstance(caught.value, DebsError)


def test_deb_that_left_the_mirror_comes_from_a_dated_archive(store: Store) -> None:
    files = {f"/old/debian-security/20261123T000000Z/{deb('d').filename}": DATA["d"]}
    with serving(files) as site:
        settings = environ(
            TORCHKILN_DEBIAN_MIRROR=f"{site.url}/debian",
            TORCHKILN_DEBIAN_SNAPSHOT=f"{site.url}/old/debian/@SNAPSHOTID@",
        )
        locked = deb("d", "debian-security")
        report = fetch(store, [], [locked], {}, settings, date="2026-11-22T00:00:00Z")

    assert 1 == report.files
    assert [DATA["d"]] == blobs(store)
    assert 3 == len(site.paths()), "the mirror, the archive at the lock's date, and a day later"


def test_a_dated_archive_that_does_not_answer_is_asked_once(store: Store) -> None:
    """And not at two dates for each of a hundred packages."""
    with serving({}) as site, serving({}) as dated:
        dated.files = {
            f"/{day}/{deb(name).filename}": status(503)
            for day in ("20261122T000000Z", "20261123T000000Z")
            for name in DATA
        }
        settings = environ(
            TORCHKILN_DEBIAN_MIRROR=f"{site.url}/debian",
            TORCHKILN_DEBIAN_SNAPSHOT=f"{dated.url}/@SNAPSHOTID@",
        )
        for name in ("a", "b"):
            with pytest.raises(DebsError):
                fetch(store, [], [deb(name)], {}, settings, date="2026-11-22T00:00:00Z")

    assert 2 == len(dated.paths()), "once in each fetch"


def test_a_dated_archive_with_other_bytes_is_not_believed(store: Store) -> None:
    name = deb("d").filename
    with serving({f"/old/debian/{name}": b"x" * len(DATA["d"])}) as site:
        settings = environ(
            TORCHKILN_DEBIAN_MIRROR=f"{site.url}/debian",
            TORCHKILN_DEBIAN_SNAPSHOT=f"{site.url}/old/debian",
        )
        with pytest.raises(DebsError):
            fetch(store, [], [deb("d")], {}, settings, date="2026-11-22T00:00:00Z")

    assert [] == blobs(store)


def test_index_that_does_not_answer_is_named_where_nothing_else_has_the_file(store: Store) -> None:
    with pytest.raises(FetchError) as caught:
        fetch(store, [wheel("a")], [], {}, environ())

    assert f"cannot fetch {NOWHERE}/a/" in caught.value.why


def test_too_little_space_is_told_with_both_numbers_before_a_byte_is_fetched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = LockedWheel(name="a", version="1", file="a.whl", size=10**18, sha256="0" * 64)
    monkeypatch.setattr(pipconf, "read", no_pip)

    with pytest.raises(StoreError) as caught:
        fetch(store, [huge], [], {}, {})

    assert caught.value.why.startswith("1,000,000,000,000 MB are to be fetched, ")
    assert caught.value.why.endswith(" MB are free")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_disk_that_fills_up_is_an_error_of_the_store(tmp_path: Path) -> None:
    """Another process may take the space that was there at the start."""
    (tmp_path / wheel("a").file).write_bytes(DATA["a"])
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from test_fetch import environ, wheel
        from torchkiln import fetch
        from torchkiln.store import Store
        fetch._check_space = lambda *_: None
        wheels, settings = [wheel("a")], environ(PIP_FIND_LINKS=sys.argv[1])
        fetch.fetch(Store(Path(sys.argv[1], "small")), wheels, [], {}, settings)
    """)
    small = (
        'mkdir "$2/small" && mount -t tmpfs -o size=16k none "$2/small" && exec "$0" -c "$1" "$2"'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", small, sys.executable, program, str(tmp_path)],
        env=PYTHONPATH,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "StoreError: error: the store cannot be written" in done.stderr
    assert "No space left on device" in done.stderr


def test_interrupt_ends_at_once_what_waits_for_a_server(store: Store) -> None:
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from test_fetch import deb, environ
        from torchkiln.fetch import fetch
        from torchkiln.store import Store
        settings = environ(TORCHKILN_DEBIAN_MIRROR=sys.argv[2], PIP_TIMEOUT="60")
        fetch(Store(Path(sys.argv[1])), [], [deb("a"), deb("b")], {}, settings)
    """)
    files = {f"/debian/{deb(name).filename}": DATA[name] for name in ("a", "b")}
    with serving(files) as site:
        site.faults = {path: [hang(1000)] for path in files}
        command = [sys.executable, "-c", program, str(store.root), f"{site.url}/debian"]
        with subprocess.Popen(command, env=PYTHONPATH, stderr=subprocess.PIPE) as process:
            while site.sent < 2000:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)

    assert b"KeyboardInterrupt" in errors


def test_two_fetches_at_once_transfer_each_file_once(store: Store) -> None:
    a = wheel("a")

    def slow(handler: Any, _: bytes) -> None:  # noqa: ANN401
        time.sleep(0.5)
        handler.reply(200, DATA["a"])

    with serving({"/s/a/": listing(a, "/f"), "/f": slow}) as site, ThreadPoolExecutor(2) as pool:
        settings = environ(PIP_INDEX_URL=f"{site.url}/s")
        runs = [pool.submit(fetch, store, [a], [], {}, settings) for _ in range(2)]
        received = sorted(run.result().bytes_fetched for run in runs)

    assert [0, len(DATA["a"])] == received
    assert 1 == site.paths().count("/f")
    assert ([DATA["a"]], []) == (blobs(store), list(store.root.glob("partial/*")))


def test_what_came_before_a_failure_is_kept_for_the_next_run(store: Store) -> None:
    a = wheel("a")
    with serving({"/s/a/": listing(a, "/f"), "/f": DATA["a"]}) as site:
        site.faults["/f"] = [cut(20_000)]
        settings = environ(PIP_INDEX_URL=f"{site.url}/s")
        with contextlib.suppress(FetchError):
            fetch(store, [a], [], {}, settings)
        report = fetch(store, [a], [], {}, settings)

    assert 30_000 == report.bytes_fetched


def test_files_come_in_parallel(store: Store) -> None:
    together = threading.Barrier(3, timeout=10)

    def meet(name: str) -> Any:  # noqa: ANN401
        def serve(handler: Any, _: bytes) -> None:  # noqa: ANN401
            together.wait()
            handler.reply(200, DATA[name])

        return serve

    files = {f"/debian/{deb(name).filename}": meet(name) for name in ("a", "b", "c")}
    with serving(files) as site:
        settings = environ(TORCHKILN_DEBIAN_MIRROR=f"{site.url}/debian")
        report = fetch(store, [], [deb(name) for name in ("a", "b", "c")], {}, settings)

    assert 3 == report.files


def test_no_password_is_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    a = wheel("a")
    with serving({"/s/a/": listing(a, "/f"), "/f": status(403)}) as site:
        secret = site.url.replace("://", "://me:secret@")
        settings = environ(
            PIP_INDEX_URL=f"{secret}/s", PIP_EXTRA_INDEX_URL="http://me:secret@localhost:9"
        )
        with pytest.raises(FetchError) as caught:
            fetch(store, [a], [], {}, settings)

    shown = capsys.readouterr().err + str(caught.value)
    assert "secret" not in shown
    assert "http://****@localhost:9/a/" in shown


def test_largest_file_comes_first(store: Store) -> None:
    """It takes the longest, so that a late start of it would leave the other threads idle."""
    wanted = [fetch_module._of_wheel(wheel(name)) for name in ("a", "b")]
    larger = dataclasses.replace(wanted[1], size=60_000)

    assert [larger, wanted[0]] == fetch_module._missing(store, [wanted[0], larger])
