from __future__ import annotations

import contextlib
import functools
import hashlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import cut, endless, hang, ranged, serving, status, whole

from torchkiln.download import MismatchError, download, exclusive
from torchkiln.errors import FetchError
from torchkiln.pipconf import PipConfig
from torchkiln.transport import CancelledFetchError, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

BODY = bytes(range(1, 251)) * 12_000
ROOT = Path(__file__).parents[2]


def ignore(_: int) -> None:
    """Take a report and do nothing."""


def fetch(url: str, path: Path, report: Callable[[int], None] = ignore, **settings: Any) -> int:  # noqa: ANN401
    """Download what should be `BODY` into the partial file at `path`."""
    defaults: dict[str, Any] = {"index_url": "http://unused.example", "retries": 2, "timeout": 5.0}
    sha256 = hashlib.sha256(BODY).hexdigest()
    transport = Transport(PipConfig(**{**defaults, **settings}), {}, first_pause=0.001)
    with contextlib.closing(transport), exclusive(path) as stream:
        return download(transport, url, size=len(BODY), sha256=sha256, stream=stream, report=report)


def range_of(request: tuple[str, dict[str, str]]) -> str | None:
    return request[1].get("range")


def test_file_comes_whole_and_each_byte_is_reported(tmp_path: Path) -> None:
    reported: list[int] = []
    with serving({"/f": BODY}) as site:
        received = fetch(f"{site.url}/f", tmp_path / "p", report=reported.append)

    assert BODY == (tmp_path / "p").read_bytes()
    assert len(BODY) == received == sum(reported)


def test_file_with_no_length_told_comes_whole(tmp_path: Path) -> None:
    def serve(handler: Any, body: bytes) -> None:  # noqa: ANN401
        handler.reply(200, body, Content_Length="", Connection="close")

    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [serve]
        fetch(f"{site.url}/f", tmp_path / "p")

    assert BODY == (tmp_path / "p").read_bytes()


def unannounced(handler: Any, body: bytes) -> None:  # noqa: ANN401
    """Send a part, with no length told, and close the connection as if that were all."""
    handler.reply(200, body[:1_000_000], Content_Length="", Connection="close")


@pytest.mark.parametrize("fault", [cut(1_000_000), hang(1_000_000), unannounced])
def test_broken_transfer_goes_on_where_it_broke(tmp_path: Path, fault: Any) -> None:  # noqa: ANN401
    reported: list[int] = []
    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [fault]
        received = fetch(f"{site.url}/f", tmp_path / "p", report=reported.append, timeout=0.3)

    assert BODY == (tmp_path / "p").read_bytes()
    assert [None, "bytes=1000000-"] == [range_of(request) for request in site.requests]
    assert len(BODY) == received == site.sent == sum(reported)


def test_next_run_transfers_the_rest_alone(tmp_path: Path) -> None:
    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [cut(2_000_000)]
        with pytest.raises(FetchError):
            fetch(f"{site.url}/f", tmp_path / "p", retries=0)
        received = fetch(f"{site.url}/f", tmp_path / "p")

    assert BODY == (tmp_path / "p").read_bytes()
    assert 1_000_000 == received


def test_etag_is_sent_back_and_a_changed_file_starts_again(tmp_path: Path) -> None:
    new = functools.partial(ranged, etag='"new"')
    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [cut(1000, etag='"old"'), new]
        fetch(f"{site.url}/f", tmp_path / "p")

    assert BODY == (tmp_path / "p").read_bytes()
    assert '"old"' == site.requests[1][1]["if-range"]


def test_weak_etag_is_not_sent_back(tmp_path: Path) -> None:
    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [cut(1000, etag='W/"weak"')]
        fetch(f"{site.url}/f", tmp_path / "p")

    assert "if-range" not in site.requests[1][1]


@pytest.mark.parametrize("refusal", [whole, status(416)])
def test_server_that_cannot_resume_sends_all_again(tmp_path: Path, refusal: Any) -> None:  # noqa: ANN401
    reported: list[int] = []
    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [cut(1000), refusal]
        fetch(f"{site.url}/f", tmp_path / "p", report=reported.append)

    assert BODY == (tmp_path / "p").read_bytes()
    assert len(BODY) == sum(reported)


def test_answer_with_another_range_is_not_appended(tmp_path: Path) -> None:
    def shifted(handler: Any, body: bytes) -> None:  # noqa: ANN401
        handler.reply(206, body[500:], Content_Range=f"bytes 500-{len(body) - 1}/{len(body)}")

    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [cut(1000), shifted]
        fetch(f"{site.url}/f", tmp_path / "p")

    assert BODY == (tmp_path / "p").read_bytes()


def test_wrong_bytes_are_refused_at_once_and_not_kept(tmp_path: Path) -> None:
    wrong = bytes(len(BODY))
    with serving({"/f": wrong}) as site, pytest.raises(MismatchError) as caught:
        fetch(f"{site.url}/f", tmp_path / "p")

    assert ["/f"] == site.paths()
    assert hashlib.sha256(wrong).hexdigest() in caught.value.why
    assert 0 == (tmp_path / "p").stat().st_size


def test_wrong_part_of_an_earlier_run_is_thrown_away_once(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(bytes(1000))
    with serving({"/f": BODY}) as site:
        fetch(f"{site.url}/f", tmp_path / "p")

    assert BODY == (tmp_path / "p").read_bytes()
    assert ["bytes=1000-", None] == [range_of(request) for request in site.requests]


def test_file_that_changed_between_two_parts_is_fetched_again_once(tmp_path: Path) -> None:
    def other(handler: Any, _: bytes) -> None:  # noqa: ANN401
        ranged(handler, bytes(len(BODY)))

    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [cut(1000), other]
        fetch(f"{site.url}/f", tmp_path / "p")

    assert BODY == (tmp_path / "p").read_bytes()


def test_wrong_bytes_after_a_wrong_part_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(bytes(1000))
    with serving({"/f": bytes(len(BODY))}) as site, pytest.raises(MismatchError):
        fetch(f"{site.url}/f", tmp_path / "p")

    assert [None] == [range_of(request) for request in site.requests][1:]


def test_whole_file_of_an_earlier_run_needs_no_request(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(BODY)

    assert 0 == fetch("http://localhost:9/f", tmp_path / "p")


def test_part_that_is_longer_than_the_file_starts_again(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(BODY + b"x")
    with serving({"/f": BODY}) as site:
        fetch(f"{site.url}/f", tmp_path / "p")

    assert BODY == (tmp_path / "p").read_bytes()


@pytest.mark.parametrize("length", [len(BODY) - 1, len(BODY) + 1])
def test_other_length_than_the_locked_one_is_refused_before_a_byte_is_read(
    tmp_path: Path, length: int
) -> None:
    with serving({"/f": bytes(length)}) as site, pytest.raises(MismatchError) as caught:
        fetch(f"{site.url}/f", tmp_path / "p")

    assert f"it has {length} bytes, the lock says {len(BODY)}" == caught.value.why


def test_endless_file_is_stopped(tmp_path: Path) -> None:
    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [endless]
        with pytest.raises(MismatchError, match="not the locked bytes"):
            fetch(f"{site.url}/f", tmp_path / "p")

    assert ["/f"] == site.paths()


def test_file_on_disk_is_copied_and_checked(tmp_path: Path) -> None:
    (tmp_path / "f+g").write_bytes(BODY)

    received = fetch((tmp_path / "f+g").as_uri(), tmp_path / "p")

    assert (BODY, len(BODY)) == ((tmp_path / "p").read_bytes(), received)


def test_wrong_file_on_disk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(len(BODY)))

    with pytest.raises(MismatchError):
        fetch((tmp_path / "f").as_uri(), tmp_path / "p")


def test_stop_ends_a_transfer_and_keeps_what_came(tmp_path: Path) -> None:
    transport = Transport(PipConfig(index_url="http://unused.example"), {})

    def report(_: int) -> None:
        transport.stop.set()

    with (
        contextlib.closing(transport),
        serving({"/f": BODY}) as site,
        exclusive(tmp_path / "p") as stream,
        pytest.raises(CancelledFetchError),
    ):
        download(
            transport, f"{site.url}/f", size=len(BODY), sha256="", stream=stream, report=report
        )

    kept = (tmp_path / "p").read_bytes()
    assert 0 < len(kept) < len(BODY)
    assert BODY.startswith(kept)


def test_kill_in_the_middle_costs_nothing_that_had_come(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from torchkiln.download import download, exclusive
        from torchkiln.pipconf import PipConfig
        from torchkiln.transport import Transport
        transport = Transport(PipConfig(index_url="http://unused.example"), {})
        with exclusive(Path(sys.argv[2])) as stream:
            download(transport, sys.argv[1], size=3_000_000, sha256="", stream=stream, report=print)
    """)
    path = tmp_path / "p"
    with serving({"/f": BODY}) as site:
        site.faults["/f"] = [hang(2_000_000)]
        command = [sys.executable, "-c", program, f"{site.url}/f", str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            _wait_for(lambda: path.exists() and path.stat().st_size > 1_900_000)
            process.send_signal(signal.SIGKILL)
        kept = path.stat().st_size
        received = fetch(f"{site.url}/f", path)

    assert BODY == path.read_bytes()
    assert [None, f"bytes={kept}-"] == [range_of(request) for request in site.requests]
    assert len(BODY) - kept == received


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_partial_file_is_for_one_at_a_time_and_its_successor_gets_a_new_one(tmp_path: Path) -> None:
    """Who waited must not write into the file that has meanwhile become a blob."""
    entered = threading.Event()
    sizes: list[int] = []

    def wait() -> None:
        entered.set()
        with exclusive(tmp_path / "p") as stream:
            sizes.append(len(stream.read()))

    with exclusive(tmp_path / "p") as stream:
        stream.write(b"blob")
        stream.flush()
        waiter = threading.Thread(target=wait)
        waiter.start()
        entered.wait()
        time.sleep(0.1)
        assert [] == sizes
        (tmp_path / "p").rename(tmp_path / "blob")
    waiter.join()

    assert ([0], b"blob") == (sizes, (tmp_path / "blob").read_bytes())


def test_partial_file_of_a_process_killed_on_the_way_into_the_store_is_used(tmp_path: Path) -> None:
    """`Store.adopt` makes a file read-only before it moves it."""
    (tmp_path / "p").write_bytes(BODY[:1000])
    (tmp_path / "p").chmod(0o444)
    with serving({"/f": BODY}) as site:
        fetch(f"{site.url}/f", tmp_path / "p")

    assert 0o644 == (tmp_path / "p").stat().st_mode & 0o777
