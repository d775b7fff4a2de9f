from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from servers import Authority, authority, proxying, serving

from torchkiln.errors import FetchError
from torchkiln.pipconf import PipConfig
from torchkiln.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("ca"))


def read(url: str, environ: Mapping[str, str], **settings: Any) -> bytes:  # noqa: ANN401
    config = PipConfig(index_url="http://unused.example", retries=0, timeout=5.0, **settings)
    with contextlib.closing(Transport(config, environ, first_pause=0.001)) as transport:
        return transport.read(url).data


def test_unknown_ca_is_refused_with_a_hint_and_without_retry(ca: Authority) -> None:
    with serving({"/a": b"A"}, ca.server) as site, pytest.raises(FetchError) as caught:
        read(f"{site.url}/a", {})

    assert "the certificate of localhost cannot be verified" == caught.value.what
    assert "PIP_CERT" in caught.value.hint


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_private_ca_is_found_where_pip_finds_it(ca: Authority, name: str) -> None:
    with serving({"/a": b"A"}, ca.server) as site:
        assert b"A" == read(f"{site.url}/a", {name: str(ca.path)})


def test_pip_cert_is_the_only_ca(ca: Authority) -> None:
    with serving({"/a": b"A"}, ca.server) as site:
        assert b"A" == read(f"{site.url}/a", {"CURL_CA_BUNDLE": "/no/file"}, cert=str(ca.path))


def test_certificate_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FetchError, match=r"cannot be read: /no/ca\.pem"):
        read("https://localhost:9/a", {}, cert="/no/ca.pem")


@pytest.mark.parametrize("with_port", [False, True])
def test_trusted_host_needs_no_certificate(ca: Authority, *, with_port: bool) -> None:
    with serving({"/a": b"A"}, ca.server) as site:
        host = site.url.removeprefix("https://") if with_port else "localhost"

        assert b"A" == read(f"{site.url}/a", {}, trusted_hosts=(host,))


def test_other_port_than_the_trusted_one_is_verified(ca: Authority) -> None:
    with serving({"/a": b"A"}, ca.server) as site, pytest.raises(FetchError):
        read(f"{site.url}/a", {}, trusted_hosts=("localhost:1",))


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_proxy_of_the_environment_is_used(name: str) -> None:
    with serving({"/a": b"A"}) as site, proxying() as proxy:
        environ = {name: proxy.url.replace("://", "://me:secret@")}

        assert b"A" == read(f"{site.url}/a", environ)
        assert [("GET", f"{site.url}/a", "Basic bWU6c2VjcmV0")] == proxy.seen


def test_https_goes_through_a_tunnel_and_is_verified(ca: Authority) -> None:
    with serving({"/a": b"A"}, ca.server) as site, proxying() as proxy:
        environ = {"https_proxy": proxy.url, "SSL_CERT_FILE": str(ca.path)}

        assert b"A" == read(f"{site.url}/a", environ)
        assert [("CONNECT", site.url.removeprefix("https://"), None)] == proxy.seen


def test_no_proxy_exempts_a_host() -> None:
    with serving({"/a": b"A"}) as site:
        environ = {"http_proxy": "http://localhost:9", "NO_PROXY": "other.example,localhost"}

        assert b"A" == read(f"{site.url}/a", environ)


def test_proxy_of_pip_beats_the_environment() -> None:
    with serving({"/a": b"A"}) as site, proxying() as proxy:
        environ = {"http_proxy": "http://localhost:9", "no_proxy": "*"}

        assert b"A" == read(f"{site.url}/a", environ, proxy=proxy.url.removeprefix("http://"))
        assert 1 == len(proxy.seen)


def test_proxy_that_is_not_there_is_named() -> None:
    with pytest.raises(FetchError) as caught:
        read("http://i.example/a", {"http_proxy": "http://me:secret@localhost:9"})

    assert "proxy" in caught.value.why.lower()
    assert "secret" not in str(caught.value)
