"""What the doctor says of the way to package indexes and registries, by real servers here."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from doctor_environments import Venv, make
from servers import authority, proxying, serving, status

from torchkiln.doctor.checks import load_checks
from torchkiln.doctor.facts import Subject, gather
from torchkiln.doctor.guard import run_checks
from torchkiln.doctor.network import way_to
from torchkiln.doctor.report import diagnosis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Site

    from torchkiln.doctor.guard import Finding

CHECKS = load_checks()
DEAD = "http://127.0.0.1:9"


class Place(Venv):
    """An environment on a network; its pip is configured by variables."""

    image = ""

    def variables(self) -> dict[str, str]:
        """Return the environment variables, without those that keep pip off all indexes."""
        plain = super().variables()
        return {name: text for name, text in plain.items() if name != "PIP_NO_INDEX"}

    def examine(self) -> list[Finding]:
        """Return what all checks find, those of the network too."""
        subject = Subject(
            environ=self.variables(),
            python=self.python,
            root=self.root,
            image=self.image,
            patience=40,
        )
        return diagnosis(run_checks(CHECKS, gather(subject), lambda _: None))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = make(tmp_path)
    return Place(folder=made.folder, root=made.root, wheels=made.wheels)


@contextmanager
def an_index(place: Place, **tls: Any) -> Iterator[Site]:  # noqa: ANN401
    with serving({"/simple/torch/": b"<html></html>"}, **tls) as site:
        place.environ["PIP_INDEX_URL"] = f"{site.url}/simple"
        yield site


def test_an_index_that_answers_is_no_complaint(place: Place) -> None:
    with an_index(place):
        assert {} == place.complaints()


def test_a_proxy_that_is_dead_is_left_out_where_there_is_a_way_without(place: Place) -> None:
    """Failure 22."""
    with an_index(place):
        place.environ |= {"http_proxy": DEAD, "all_proxy": DEAD}
        found = place.examine()[0]
        assert found.outcome.cause == "every download goes to a proxy that does not answer"
        assert place.recovers("package-index")


def test_a_proxy_that_works_is_no_complaint(place: Place) -> None:
    with an_index(place), proxying() as proxy:
        place.environ["http_proxy"] = proxy.url
        assert {} == place.complaints()
        assert proxy.seen


@pytest.mark.parametrize(
    ("no_proxy", "expected"),
    [
        ("", DEAD),
        ("other.org", DEAD),
        ("example.org", ""),
        (".example.org", ""),
        ("*", ""),
        ("ample.org", DEAD),
    ],
)
def test_no_proxy_spares_a_host_and_what_is_below_it(no_proxy: str, expected: str) -> None:
    environ = {"https_proxy": DEAD, "NO_PROXY": no_proxy}
    assert way_to("https://mirror.example.org/simple", environ).proxy == expected


def test_a_certificate_of_a_private_ca_is_believed_with_the_file_that_has_it(
    place: Place, tmp_path: Path
) -> None:
    """Failure 22: a bundle without the cluster's own CA, and the system's with it."""
    private = authority(tmp_path)
    (tmp_path / "other").mkdir()
    wrong = authority(tmp_path / "other").path
    bundle = place.root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True)
    bundle.write_text(private.path.read_text())
    with an_index(place, tls=private.server):
        place.environ["REQUESTS_CA_BUNDLE"] = str(wrong)
        assert place.recovers("package-index")
        assert {} == place.complaints()


def test_a_file_of_certificates_that_is_gone_is_left_out(place: Place) -> None:
    with an_index(place):
        place.environ["SSL_CERT_FILE"] = "/nowhere/ca.pem"
        assert place.recovers("ca-file")


def test_a_name_that_is_not_resolved_is_told(place: Place) -> None:
    place.environ["PIP_INDEX_URL"] = "http://index.invalid/simple"
    found = place.examine()[0]
    assert found.check.id == "package-index"
    assert found.outcome.evidence.startswith("name: ")


@pytest.mark.parametrize(
    ("code", "words"),
    [(429, "too many requests"), (401, "it wants a login"), (403, "it wants a login")],
)
def test_what_an_index_refuses_is_told(place: Place, code: int, words: str) -> None:
    with serving({"/simple/torch/": status(code, Retry_After="1")}) as site:
        place.environ["PIP_INDEX_URL"] = f"{site.url}/simple"
        found = place.examine()[0]
        assert (found.check.id, found.outcome.verdict) == ("package-index", "problem")
        assert found.outcome.cause.startswith(words)


def test_an_index_that_has_too_many_requests_is_asked_later(place: Place) -> None:
    with an_index(place) as site:
        site.faults["/simple/torch/"] = [status(429, Retry_After="1")]
        assert place.recovers("package-index")


def test_a_pytorch_index_beside_another_is_doubtful(place: Place) -> None:
    """The guide says `--index-url`; as an extra index it gives whatever is newest."""
    with an_index(place):
        place.environ["PIP_EXTRA_INDEX_URL"] = "https://download.pytorch.org/whl/cpu"
        assert list(place.complaints()) == ["pip-indexes"]
        place.mend(place.examine()[0].outcome.remedy)
        assert {} == place.complaints()


MANIFEST = "/v2/team/torch/manifests/cpu"
TOKEN = json.dumps({"token": "t"}).encode()


def behind_a_login(site: Site) -> None:
    """Let the registry give the image to whoever is known, and 429 to anybody else."""

    def manifest(handler: Any, _: bytes) -> None:  # noqa: ANN401
        said = handler.headers.get("Authorization", "")
        if not said:
            realm = f'Bearer realm="{site.url}/token",service="here"'
            handler.reply(401, b"", WWW_Authenticate=realm)
        elif said == "Bearer known":
            handler.reply(200, b"{}")
        else:
            handler.reply(429, b"", Retry_After="3600")

    def token(handler: Any, _: bytes) -> None:  # noqa: ANN401
        wanted = base64.b64encode(b"someone:secret").decode()
        known = handler.headers.get("Authorization") == f"Basic {wanted}"
        handler.reply(200, json.dumps({"token": "known" if known else "anybody"}).encode())

    site.files |= {MANIFEST: manifest, "/token": token}


def test_a_registry_with_a_limit_gives_the_image_after_a_login(place: Place) -> None:
    """Failure 24."""
    with an_index(place), serving({}) as site:
        behind_a_login(site)
        host = site.url.removeprefix("http://")
        place.image = f"{host}/team/torch:cpu"
        # Stands for Docker's client: what `docker login` leaves.
        config = place.folder.parent / "docker"
        place.environ["DOCKER_CONFIG"] = str(config)
        auth = base64.b64encode(b"someone:secret").decode()
        document = json.dumps({"auths": {host: {"auth": auth}}})
        place.program("docker", f"mkdir {config} && echo '{document}' >{config}/config.json")
        found = place.examine()[0]
        assert found.outcome.evidence == f"{host} answers 429, and to wait 3600 s"
        assert place.recovers("registry")


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (status(401), "the image is private, or there is none of this name"),
        (status(403), "the image is private, or there is none of this name"),
        (status(404), "there is no "),
    ],
)
def test_what_a_registry_refuses_is_told(place: Place, answer: Any, cause: str) -> None:  # noqa: ANN401
    with an_index(place), serving({MANIFEST: answer}) as site:
        place.image = f"{site.url.removeprefix('http://')}/team/torch:cpu"
        found = place.examine()[0]
        assert (found.check.id, found.outcome.verdict) == ("registry", "problem")
        assert found.outcome.cause.startswith(cause)


def test_a_limit_that_is_nearly_used_up_is_told(place: Place) -> None:
    few = status(200, RateLimit_Remaining="2;w=21600")
    with an_index(place), serving({MANIFEST: few}) as site:
        place.image = f"{site.url.removeprefix('http://')}/team/torch:cpu"
        assert place.complaints() == {"registry": "2 pulls are left"}


def test_no_pip_is_no_complaint(tmp_path: Path) -> None:
    subject = Subject(environ={"PATH": ""}, python=None, root=tmp_path)
    found = run_checks([one for one in CHECKS if one.area == "network"], gather(subject), print)
    assert {one.outcome.verdict for one in found} <= {"ok", "skipped"}
