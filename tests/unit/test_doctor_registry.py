"""What the doctor says of a registry, by real servers here."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from doctor_environments import make
from doctor_network import DEAD, Place, an_index
from servers import serving, status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Site

MANIFEST = "/v2/team/torch/manifests/cpu"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    plain = make(tmp_path_factory.mktemp("network"))
    return Place(folder=plain.folder, root=plain.root, wheels=plain.wheels)


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Iterator[Place]:
    """Give a place whose index is well and whose Docker keeps its logins in `tmp_path`."""
    made.environ = {"DOCKER_CONFIG": str(tmp_path)}
    with an_index(made):
        yield made


def wanted(place: Place, site: Site) -> str:
    """Let an image of this registry be wanted, and return the registry's host."""
    host = site.url.partition("//")[2]
    place.image = f"{host}/team/torch:cpu"
    return host


@dataclass
class Limited:
    """A registry that gives an image to whoever is known while there are some `left`, else 429."""

    site: Site
    left: int = 1
    asked: set[str] = field(default_factory=set)

    def open(self) -> None:
        """Begin to answer."""
        self.site.files |= {MANIFEST: self._manifest, "/token": self._token}

    def _manifest(self, handler: Any, _: bytes) -> None:  # noqa: ANN401
        self.asked.add(handler.command)
        said = handler.headers.get("Authorization", "")
        if not said:
            realm = f'Bearer realm="{self.site.url}/token",service="here"'
            handler.reply(401, b"", WWW_Authenticate=realm)
        elif said == "Bearer known" and self.left:
            handler.reply(200, b"{}")
        else:
            handler.reply(429, b"", Retry_After="3600")

    def _token(self, handler: Any, _: bytes) -> None:  # noqa: ANN401
        login = base64.b64encode(b"someone:secret").decode()
        known = handler.headers.get("Authorization") == f"Basic {login}"
        handler.reply(200, json.dumps({"token": "known" if known else "anybody"}).encode())


def a_client(place: Place, host: str) -> None:
    """Put a `docker` on the PATH that leaves what `docker login` does."""
    auth = base64.b64encode(b"someone:secret").decode()
    document = json.dumps({"auths": {host: {"auth": auth}}})
    place.program("docker", f"echo '{document}' >$DOCKER_CONFIG/config.json")


def test_a_registry_with_a_limit_gives_the_image_after_a_login(place: Place) -> None:
    """Failure 24. To ask is no pull, which would count."""
    with serving({}) as site:
        registry = Limited(site)
        registry.open()
        host = wanted(place, site)
        a_client(place, host)
        found = place.examine()[0]
        assert found.outcome.evidence == f"{host} answers 429, and to wait 3600 s"
        assert place.recovers("registry")
        assert registry.asked == {"HEAD"}
        registry.left = 0
        assert place.examine()[0].outcome.remedy == "sleep 3600"  # to log in again is of no use


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (401, "the image is private, or there is none of this name"),
        (403, "the image is private, or there is none of this name"),
        (404, "there is no "),
    ],
)
def test_what_a_registry_refuses_is_told(place: Place, code: int, cause: str) -> None:
    with serving({MANIFEST: status(code)}) as site:
        wanted(place, site)
        found = place.examine()[0]
        assert (found.check.id, found.outcome.verdict) == ("registry", "problem")
        assert found.outcome.cause.startswith(cause)


def test_a_limit_that_is_nearly_used_up_is_told(place: Place) -> None:
    with serving({MANIFEST: status(200, RateLimit_Remaining="2;w=21600")}) as site:
        wanted(place, site)
        assert place.complaints() == {"registry": "2 pulls are left"}


def test_a_registry_is_reached_past_a_proxy_that_is_dead(place: Place) -> None:
    with serving({MANIFEST: status(200)}) as site:
        wanted(place, site)
        place.environ |= {"http_proxy": DEAD, "PIP_PROXY": ""}
        named = [one.check.id for one in place.examine() if one.outcome.verdict == "problem"]
        assert named == ["package-index", "registry"]
        assert place.recovers("package-index")
        assert {} == place.complaints()
