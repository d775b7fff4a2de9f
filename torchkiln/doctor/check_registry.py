"""A registry of images: whether it gives an image that is to be pulled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.detour import mend, why
from torchkiln.doctor.network import send, way_to
from torchkiln.errors import RegistryError
from torchkiln.registry import credentials, tokens
from torchkiln.registry.reference import parse

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts
    from torchkiln.doctor.network import Reply, Way
    from torchkiln.registry.credentials import Credential
    from torchkiln.registry.reference import Reference

_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json,"
    " application/vnd.docker.distribution.manifest.list.v2+json,"
    " application/vnd.docker.distribution.manifest.v2+json"
)
_CLIENTS: Final = ("etc/docker", "etc/containers")
_HUB: Final = {"docker.io": "registry-1.docker.io"}
_UNAUTHORIZED, _MISSING, _TOO_MANY = 401, 404, 429
_FEW: Final = 5  # pulls that are left


@check("registry", area="network", rank=90)
def registry(facts: Facts) -> Outcome:
    """Ask the registry for the image that is named."""
    if not facts.subject.image:
        return skipped("no image is named: --image REGISTRY/REPOSITORY:TAG")
    try:
        reference = parse(facts.subject.image)
        who = credentials.find(reference, facts.subject.environ)
        url, way = _url(reference), _way(facts, reference)
        reply = _manifest(reference, url, way, who)
    except RegistryError as error:
        return problem(f"{error.what}: {error.why}", cause="it cannot be asked", remedy=error.hint)
    if reply.fault:
        remedy = mend(facts.subject, url, way, reply)
        if reply.fault in {"certificate", "bundle"}:
            folder = f"/etc/docker/certs.d/{reference.registry}"
            remedy = f"sudo install -D -m 644 CA.pem {folder}/ca.crt"
        return problem(f"the registry: {reply.words}", cause=why(url, way, reply), remedy=remedy)
    return _judged(facts, reference, reply, known=who is not None)


def _url(reference: Reference) -> str:
    host = _HUB.get(reference.registry, reference.registry)
    scheme = "http" if reference.is_loopback else "https"
    return f"{scheme}://{host}/v2/{reference.repository}/manifests/{reference.wanted}"


def _way(facts: Facts, reference: Reference) -> Way:
    """Return the way to the registry, with the CA that Docker or Podman is told to believe."""
    home = facts.subject.environ.get("HOME", "")
    places = [Path(home) / ".docker", *(facts.subject.root / name for name in _CLIENTS)]
    found = [
        path for place in places for path in _authorities(place / "certs.d" / reference.registry)
    ]
    way = way_to(_url(reference), facts.subject.environ)
    return replace(way, certificates=str(found[0])) if found else way


def _authorities(folder: Path) -> list[Path]:
    """Return the certificates in `folder`; there are none in a home that is closed to who asks."""
    try:
        return sorted(folder.glob("*.crt"))
    except PermissionError:
        return []


def _manifest(reference: Reference, url: str, way: Way, who: Credential | None) -> Reply:
    """Ask for the manifest, with what `docker login` has left, as the token specification says.

    HEAD has the limits in its headers, and is no pull that counts.
    """
    headers = {"Accept": _TYPES}
    reply = send(url, way, headers, method="HEAD")
    challenge = tokens.challenge_of(reply.status, reply.headers.get("www-authenticate", ""))
    if challenge is None:
        return reply
    if challenge.scheme == "basic":
        if who is None:
            return reply
        return send(url, way, headers | {"Authorization": tokens.basic(who)}, method="HEAD")
    if not challenge.realm:
        return reply
    if challenge.realm.startswith("http:") and not url.startswith("http:"):
        what = f"{reference.registry} wants credentials sent without encryption"
        raise RegistryError(what, f"its realm is {challenge.realm}")
    asked = tokens.token_request(challenge, who, [f"repository:{reference.repository}:pull"])
    given = send(asked.url, way, asked.headers, asked.data)
    if given.fault or given.status >= _UNAUTHORIZED:
        return given
    header = tokens.grant(challenge, given.body).header
    return send(url, way, headers | {"Authorization": header}, method="HEAD")


def _judged(facts: Facts, reference: Reference, reply: Reply, *, known: bool) -> Outcome:
    evidence = f"{reference.registry} answers {reply.status}"
    login = f"{_client(facts)} login {reference.registry}"
    if reply.status == _TOO_MANY:
        wait = reply.headers.get("retry-after", "")
        wait = wait if wait.isdigit() else ""
        cause = "its limit of pulls is used up for this address: a user who is known has more"
        if known:
            cause = "its limit of pulls is used up for this user: wait, or pull from a mirror"
        return problem(
            f"{evidence}{f', and to wait {wait} s' if wait else ''}",
            cause=cause,
            remedy=f"sleep {wait or 3600}" if known else login,
            link="NVIDIA/pyxis#67",
        )
    if reply.status in {_UNAUTHORIZED, 403}:
        cause = "the image is private, or there is none of this name"
        if known:
            cause = "the login has run out, or its user may not pull this image"
        return problem(evidence, cause=cause, remedy=login, link="NVIDIA/pyxis#67")
    if reply.status == _MISSING:
        remedy = f"skopeo list-tags docker://{reference.name}"
        return problem(evidence, cause=f"there is no {reference}", remedy=remedy)
    if reply.status > _MISSING:
        return warning(evidence, cause="the registry is ill itself: try again", remedy="sleep 60")
    left = reply.headers.get("ratelimit-remaining", "").partition(";")[0]
    if left.isdigit() and int(left) < _FEW:
        cause = "its limit of pulls is nearly used up for this address"
        return warning(f"{left} pulls are left", cause=cause, remedy=login)
    return ok(f"{evidence}{f', {left} pulls are left' if left else ''}")


def _client(facts: Facts) -> str:
    """Return the program that logs in: Docker's, or Podman's where there is no other."""
    path = facts.subject.environ.get("PATH")
    is_podman = which("podman", path=path) and not which("docker", path=path)
    return "podman" if is_podman else "docker"
