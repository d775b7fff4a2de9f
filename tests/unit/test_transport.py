from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from servers import authority, cut, hang, serving, status

from torchkiln.errors import FetchError
from torchkiln.pipconf import PipConfig
from torchkiln.transport import CancelledFetchError, StatusError, TransientError, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@contextlib.contextmanager
def transport(environ: Mapping[str, str] | None = None, **settings: Any) -> Iterator[Transport]:  # noqa: ANN401
    defaults: dict[str, Any] = {"index_url": "http://unused.example", "retries": 2, "timeout": 5.0}
    opened = Transport(PipConfig(**{**defaults, **settings}), environ or {}, first_pause=0.001)
    with contextlib.closing(opened):
        yield opened


def read(url: str, environ: Mapping[str, str] | None = None, **settings: Any) -> bytes:  # noqa: ANN401
    with transport(environ, **settings) as opened:
        return opened.read(url).data


@pytest.mark.parametrize("fault", [status(500), status(503), status(429), cut(1), cut(0)])
def test_what_may_pass_is_tried_again_and_said(
    fault: Any,  # noqa: ANN401
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving({"/a": b"ABC"}) as site:
        site.faults["/a"] = [fault, fault]

        assert b"ABC" == read(f"{site.url}/a")
    assert "(try 2 of 3), trying again in" in capsys.readouterr().err


def test_tries_end_with_pip_s_retries_and_are_counted_in_the_error() -> None:
    with serving({"/a": status(502)}) as site, pytest.raises(FetchError) as caught:
        read(f"{site.url}/a")

    assert ["/a"] * 3 == site.paths()
    assert "HTTP 502 Bad Gateway (tries: 3)" == caught.value.why


def test_server_that_hangs_is_tried_again_after_the_timeout() -> None:
    with serving({"/a": b"ABC"}) as site:
        site.faults["/a"] = [hang(1)]

        assert b"ABC" == read(f"{site.url}/a", timeout=0.2)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_definite_answer_is_not_asked_for_again(code: int) -> None:
    with serving({"/a": status(code)}) as site, pytest.raises(StatusError) as caught:
        read(f"{site.url}/a")

    assert (["/a"], code) == (site.paths(), caught.value.status)


def test_pause_that_the_server_asks_for_is_kept() -> None:
    with serving({"/a": b"ABC"}) as site:
        site.faults["/a"] = [status(429, Retry_After="1")]
        started = time.monotonic()
        read(f"{site.url}/a")

    assert 1 <= time.monotonic() - started


def test_pause_that_is_too_long_is_an_error_at_once() -> None:
    files = {"/a": status(503, Retry_After="3600")}
    with serving(files) as site, pytest.raises(FetchError) as caught:
        read(f"{site.url}/a")

    assert ["/a"] == site.paths()
    assert "the server asks to wait for 3600 s" in caught.value.why


def test_pause_that_cannot_be_read_is_ours() -> None:
    with serving({"/a": b"ABC"}) as site:
        site.faults["/a"] = [status(503, Retry_After="soon")]

        assert b"ABC" == read(f"{site.url}/a")


def test_stop_ends_a_pause() -> None:
    def fail() -> None:
        opened.stop.set()
        why = "busy"
        raise TransientError(why, pause=60)

    with transport() as opened, pytest.raises(CancelledFetchError):
        opened.retrying(fail, "a")


def test_redirects_are_followed_without_credentials_of_another_host() -> None:
    with (
        serving({"/b": b"B"}) as other,
        serving({"/a": status(302, Location=f"{other.url}/b")}) as site,
    ):
        url = site.url.replace("://", "://me:secret@")

        assert b"B" == read(f"{url}/a")
    assert "authorization" in site.requests[0][1]
    assert "authorization" not in other.requests[0][1]


def test_redirects_without_end_are_an_error() -> None:
    with serving({"/a": status(302, Location="/a")}) as site, pytest.raises(FetchError) as caught:
        read(f"{site.url}/a")

    assert "more than 10 redirects" == caught.value.why


def test_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    with serving({"/b": b"B"}) as plain:
        files = {"/a": status(302, Location=f"{plain.url}/b")}
        with serving(files, ca.server) as site, pytest.raises(FetchError) as caught:
            read(f"{site.url}/a", cert=str(ca.path))

    assert f"it redirects from https to {plain.url}/b" == caught.value.why
    assert [] == plain.paths()


def test_netrc_is_read(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine localhost login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    with serving({"/a": b"A"}) as site:
        read(f"{site.url}/a", {"HOME": str(tmp_path)})

    assert "Basic bWU6c2VjcmV0" == site.requests[0][1]["authorization"]


def test_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(b"A")

    assert b"A" == read((tmp_path / "a b").as_uri())


def test_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="cannot read file://"):
        read((tmp_path / "a").as_uri())


def test_url_that_is_none_is_an_error() -> None:
    with pytest.raises(FetchError, match="cannot fetch http://"):
        read("http:///a")
