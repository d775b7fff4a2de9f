"""What the doctor says of the way to package indexes, by real servers here."""

from __future__ import annotations

import base64
import subprocess
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING, Any

import pytest
from doctor_environments import make
from doctor_network import DEAD, NETWORK, Place, an_index
from servers import authority, proxying, serving, status

from torchkiln.doctor.facts import Subject, gather
from torchkiln.doctor.guard import run_checks
from torchkiln.doctor.network import Way, send, way_to
from torchkiln.pipconf import PipConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Authority

HERE = "/simple/torch/"
PYTORCH = "https://download.pytorch.org/whl/cpu"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Make one environment for all tests: none changes what is installed."""
    plain = make(tmp_path_factory.mktemp("network"))
    return Place(folder=plain.folder, root=plain.root, wheels=plain.wheels)


@pytest.fixture
def place(made: Place) -> Iterator[Place]:
    made.environ = {}
    yield made
    for file in made.folder.glob("pip.conf*"):
        file.unlink()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("private"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("other"))


def cut(handler: Any, _: bytes) -> None:  # noqa: ANN401
    """Close the connection without a word."""
    handler.close_connection = True


def test_an_index_that_answers_is_no_complaint(place: Place) -> None:
    with an_index(place), proxying() as proxy:
        assert {} == place.complaints()
        place.environ["http_proxy"] = proxy.url
        assert {} == place.complaints()
        assert proxy.seen


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_that_is_dead_is_left_out_where_there_is_a_way_without(
    place: Place, name: str
) -> None:
    """Failure 22. `all_proxy` alone takes the place of the other where that is gone."""
    with an_index(place):
        place.environ |= {name: DEAD, "ALL_PROXY": DEAD}
        assert place.recovers("package-index")
        assert {name, "ALL_PROXY"}.isdisjoint(place.environ)


def test_a_proxy_that_cuts_the_connection_is_left_out(place: Place) -> None:
    with an_index(place), serving({HERE: cut}) as proxy:
        place.environ["http_proxy"] = proxy.url
        assert place.recovers("package-index")


def test_a_proxy_in_a_file_of_pip_is_taken_out_of_it(place: Place) -> None:
    with an_index(place):
        place.environ["NO_PROXY"] = "*"  # pip does not ask it of its own setting
        place.configure(f"[install]\nproxy = {DEAD}\n")
        assert place.recovers("package-index")


@pytest.mark.parametrize("answer", [407, 502])
def test_a_host_that_a_proxy_does_not_reach_is_spared(place: Place, answer: int) -> None:
    """An index in the house, and a proxy that leads out of it: it stays for the rest."""
    with an_index(place), serving({HERE: status(answer)}) as proxy:
        place.environ |= {"http_proxy": proxy.url, "no_proxy": "other.org"}
        assert place.recovers("package-index")
        assert place.environ["no_proxy"] == "other.org,localhost"
        assert place.environ["http_proxy"] == proxy.url


def test_a_tunnel_that_is_refused_is_spared(place: Place, private: Authority) -> None:
    with an_index(place, tls=private.server), serving({}) as proxy:
        place.environ |= {"PIP_CERT": str(private.path), "HTTPS_PROXY": proxy.url}
        assert place.recovers("package-index")
        assert place.environ["NO_PROXY"] == "localhost"


def test_a_proxy_that_wants_a_login_is_told_with_its_address(place: Place) -> None:
    with serving({HERE: status(407)}) as proxy:
        place.environ |= {"PIP_INDEX_URL": "http://index.invalid/simple", "http_proxy": proxy.url}
        found = place.examine()[0]
        login = proxy.url.replace("//", "//USER:PASSWORD@")
        assert found.outcome.remedy == f"export http_proxy={login}"


def test_a_host_that_only_the_proxy_reaches_is_not_spared(place: Place) -> None:
    with serving({HERE: b""}) as proxy:
        place.environ |= {"PIP_INDEX_URL": "http://index.invalid/simple"}
        assert place.examine()[0].outcome.cause.startswith("its name is not resolved")
        place.environ |= {"http_proxy": proxy.url, "NO_PROXY": "index.invalid"}
        assert place.recovers("package-index")


def test_a_socks_proxy_is_none_for_a_pip_without_pysocks(place: Place) -> None:
    with an_index(place):
        place.environ["ALL_PROXY"] = "socks5h://127.0.0.1:9"
        assert place.recovers("package-index")


@pytest.mark.parametrize(
    ("no_proxy", "expected"),
    [
        ("", DEAD),
        ("other.org", DEAD),
        ("example.org", ""),
        (".example.org", ""),
        ("mirror.example.org:8080", ""),
        ("*", ""),
        ("ample.org", DEAD),
    ],
)
def test_no_proxy_spares_a_host_and_what_is_below_it(no_proxy: str, expected: str) -> None:
    environ = {"https_proxy": DEAD, "NO_PROXY": no_proxy}
    assert way_to("https://mirror.example.org:8080/simple", environ).proxy == expected


def test_a_certificate_of_a_private_ca_is_believed_with_the_file_that_has_it(
    place: Place, private: Authority, other: Authority
) -> None:
    """Failure 22: a bundle without the cluster's own CA, and the system's with it."""
    bundle = place.root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text(private.path.read_text())
    with an_index(place, tls=private.server):
        place.environ["PIP_CERT"] = str(other.path)
        assert place.recovers("package-index")
    bundle.unlink()


def test_what_pip_believes_is_no_complaint(
    place: Place, private: Authority, tmp_path: Path
) -> None:
    """A host that it is told to trust; a folder of certificates."""
    (tmp_path / "ca.pem").write_text(private.path.read_text())
    subprocess.run(["openssl", "rehash", tmp_path], check=True)
    with an_index(place, tls=private.server):
        place.environ["PIP_TRUSTED_HOST"] = "localhost"
        assert {} == place.complaints()
        del place.environ["PIP_TRUSTED_HOST"]
        place.environ["PIP_CERT"] = str(tmp_path)
        assert {} == place.complaints()


def test_the_certificates_that_pip_brings_count_beside_those_of_the_system(
    private: Authority, other: Authority
) -> None:
    with serving({"/": b""}, tls=private.server) as site:
        environ = {"SSL_CERT_FILE": str(other.path)}
        assert send(site.url, way_to(site.url, environ, None)).fault == "certificate"
        assert not send(site.url, way_to(site.url, environ, None, str(private.path))).fault
        environ = {"REQUESTS_CA_BUNDLE": str(other.path)}
        way = way_to(site.url, environ, PipConfig(index_url=""), str(private.path))
        assert send(site.url, way).fault == "certificate"


@pytest.mark.parametrize("text", [None, "", "no certificate\n"])
def test_a_file_that_gives_no_certificates_is_left_out(
    place: Place, tmp_path: Path, text: str | None
) -> None:
    bad = tmp_path / "ca.pem"
    if text is not None:
        bad.write_text(text)
    with an_index(place):
        place.environ["SSL_CERT_FILE"] = str(bad)
        first, second, *_ = place.examine()
        assert (first.check.id, second.outcome.verdict) == ("ca-file", "skipped")
        place.mend(first.outcome.remedy)
        assert {} == place.complaints()


def test_a_file_of_certificates_that_pip_is_told_and_that_is_gone_is_told_no_more(
    place: Place,
) -> None:
    with an_index(place):
        place.configure("[global]\ncert = /nowhere/ca.pem\n")
        assert place.recovers("package-index")


def test_a_clock_that_is_wrong_is_told_from_a_certificate_that_has_run_out(
    place: Place, tmp_path: Path
) -> None:
    """The server's own time says which; who answers is not believed for more than that."""
    old = authority(tmp_path, days=-1)
    with an_index(place, tls=old.server) as site:
        place.environ["PIP_CERT"] = str(old.path)
        assert place.examine()[0].outcome.cause.startswith("its certificate is not valid")
        then = formatdate(time() - 3 * 86400, usegmt=True)
        site.files[HERE] = status(200, Date=then)
        assert place.examine()[0].outcome.remedy == "sudo timedatectl set-ntp true"


@pytest.mark.parametrize(
    ("code", "words"),
    [(429, "too many requests"), (401, "it wants a login"), (403, "it wants a login")],
)
def test_what_an_index_refuses_is_told(place: Place, code: int, words: str) -> None:
    with serving({HERE: status(code, Retry_After="1")}) as site:
        place.environ["PIP_INDEX_URL"] = f"{site.url}/simple"
        found = place.examine()[0]
        assert (found.check.id, found.outcome.verdict) == ("package-index", "problem")
        assert found.outcome.cause.startswith(words)


def test_an_index_that_has_too_many_requests_is_asked_later(place: Place) -> None:
    with an_index(place) as site:
        site.faults[HERE] = [status(429, Retry_After="1")]
        assert place.recovers("package-index")


def behind_a_login(handler: Any, _: bytes) -> None:  # noqa: ANN401
    known = "Basic " + base64.b64encode(b"me:it").decode()
    handler.reply(200 if handler.headers.get("Authorization") == known else 401, b"")


def test_an_index_behind_a_login_is_asked_with_that_of_its_url_or_of_netrc(
    place: Place, tmp_path: Path
) -> None:
    with serving({HERE: behind_a_login}) as site:
        place.environ["PIP_INDEX_URL"] = f"{site.url}/simple"
        remedy = place.examine()[0].outcome.remedy
        place.mend(remedy.replace("USER:TOKEN", "me:it"))
        assert {} == place.complaints()
        (tmp_path / "netrc").write_text("machine localhost login me password it\n")
        place.environ = {"NETRC": str(tmp_path / "netrc"), "PIP_INDEX_URL": f"{site.url}/simple"}
        assert {} == place.complaints()


def test_a_login_goes_to_no_other_server() -> None:
    with serving({"/": b""}) as elsewhere:
        moved = status(302, Location=f"{elsewhere.url}/")
        with serving({"/": moved, "/near": status(302, Location="/")}) as site:
            assert send(site.url.replace("//", "//me:it@") + "/near", Way()).status == 200
        assert "authorization" not in elsewhere.requests[0][1]
        assert all("authorization" in headers for _, headers in site.requests)


def test_an_index_without_torch_is_doubtful_where_it_is_the_only_place(place: Place) -> None:
    with serving({}) as site, an_index(place) as good:
        place.configure(f"[global]\nindex-url = {site.url}/wrong\n")
        place.environ = {"PIP_FIND_LINKS": ""}
        assert list(place.complaints()) == ["package-index"]
        place.environ = {}  # wheels in a folder
        assert {} == place.complaints()
        place.environ = {"PIP_INDEX_URL": f"{good.url}/simple"}
        assert {} == place.complaints()


def test_a_file_that_pip_cannot_read_is_put_aside(place: Place) -> None:
    with an_index(place):
        place.configure("[global\n")
        assert place.recovers("package-index")


@pytest.mark.parametrize("name", ["extra-index-url", "find-links"])
def test_a_pytorch_index_beside_another_is_doubtful(place: Place, name: str) -> None:
    """As an extra index, or a page of links, it gives whatever is newest; the others stay."""
    variable = f"PIP_{name.upper().replace('-', '_')}"
    with an_index(place):
        place.environ[variable] = f"{PYTORCH} /more"
        assert list(place.complaints()) == ["pip-indexes"]
        place.mend(place.examine()[0].outcome.remedy)
        assert place.environ[variable] == "/more"
        assert {} == place.complaints()


def test_a_pytorch_index_in_a_file_of_pip_is_taken_out_of_it(place: Place) -> None:
    with an_index(place):
        place.configure(f"[global]\nextra-index-url = {PYTORCH}\n")
        assert list(place.complaints()) == ["pip-indexes"]
        place.mend(place.examine()[0].outcome.remedy)
        assert {} == place.complaints()


def test_uv_has_an_index_of_its_own_where_there_is_no_pip(tmp_path: Path) -> None:
    environ = {"PATH": "", "UV_INDEX_URL": ""}
    for expected in ("skipped", "problem"):
        subject = Subject(environ=environ, python=None, root=tmp_path)
        found = {one.check.id: one.outcome for one in run_checks(NETWORK, gather(subject), print)}
        assert found["package-index"].verdict == expected
        environ["UV_INDEX_URL"] = f"{DEAD}/simple"
