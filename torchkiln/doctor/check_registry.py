"""A registry of images: whether it gives an image that is to be pulled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.network import send, way_to
from torchkiln.errors import RegistryError
from torchkiln.registry import credentials, tokens
from torchkiln.registry.reference import parse

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts
    from torchkiln.doctor.network import Reply
    from torchkiln.registry.reference import Reference

_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json,"
    " application/vnd.docker.distribution.manifest.list.v2+json,"
    " application/vnd.docker.distribution.manifest.v2+json"
)
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
        reply = _manifest(facts, reference)
    except RegistryError as error:
        return problem(f"{error.what}: {error.why}", cause="it cannot be asked", remedy=error.hint)
    if reply.fault:
        cause = "the registry cannot be reached from here"
        remedy = "export HTTPS_PROXY=http://PROXY:PORT"
        return problem(f"{reply.fault}: {reply.words}", cause=cause, remedy=remedy)
    return _judged(reference, reply)


def _manifest(facts: Facts, reference: Reference) -> Reply:
    """Ask for the manifest, with what `docker login` has left, as the token specification says."""
    environ = facts.subject.environ
    who = credentials.find(reference, environ)
    host = _HUB.get(reference.registry, reference.registry)
    scheme = "http" if reference.is_loopback else "https"
    url = f"{scheme}://{host}/v2/{reference.repository}/manifests/{reference.wanted}"
    way = way_to(url, environ)
    headers = {"Accept": _TYPES}
    reply = send(url, way, headers)
    challenge = tokens.challenge_of(reply.status, reply.headers.get("www-authenticate", ""))
    if challenge is None:
        return reply
    if challenge.scheme == "basic":
        return send(url, way, headers | {"Authorization": tokens.basic(who)}) if who else reply
    if not challenge.realm:
        return reply
    asked = tokens.token_request(challenge, who, [f"repository:{reference.repository}:pull"])
    given = send(asked.url, way, asked.headers, asked.data)
    if given.fault or given.status >= _UNAUTHORIZED:
        return given
    header = tokens.grant(challenge, given.body).header
    return send(url, way, headers | {"Authorization": header})


def _judged(reference: Reference, reply: Reply) -> Outcome:
    evidence = f"{reference.registry} answers {reply.status}"
    login = f"docker login {reference.registry}"
    if reply.status == _TOO_MANY:
        wait = reply.headers.get("retry-after", "")
        return problem(
            f"{evidence}{f', and to wait {wait} s' if wait else ''}",
            cause="its limit of pulls is used up for this address: a user who is known has more",
            remedy=login,
            link="NVIDIA/pyxis#67",
        )
    if reply.status in {_UNAUTHORIZED, 403}:
        cause = "the image is private, or there is none of this name"
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
