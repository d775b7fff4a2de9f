"""What is told of an image in a registry: read, and compared with signature and content."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from debian.deb822 import Deb822
from packaging.utils import canonicalize_name

from torchkiln.errors import ProofError
from torchkiln.lockfile import canonical
from torchkiln.proof import signature as signatures
from torchkiln.proof.attach import PREDICATES, PROVENANCE, SBOM, SMOKE
from torchkiln.registry.artifacts import documents, referrers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torchkiln.listing import ImageListing
    from torchkiln.proof.keys import PublicKey
    from torchkiln.registry.session import Session

_TITLES: Final = {SBOM: "SBOM", PROVENANCE: "provenance", SMOKE: "smoke report"}
_METADATA: Final = re.compile(r".+\.dist-info/METADATA")
_STATUS: Final = "var/lib/dpkg/status"
_SHOWN: Final = 10


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the registry tells of an image: documents by media type, and whether a key says so."""

    digest: str
    documents: dict[str, dict[str, Any]]
    signed: bool

    @property
    def titles(self) -> list[str]:
        """Return the documents' names, as people call them."""
        return [_TITLES[kind] for kind in self.documents]


def read_proof(session: Session, digest: str, key: PublicKey | None) -> Proof:
    """Return what is attached to the image `digest` (`sha256:<hex>`).

    With a key, the image and each document must be signed by it; whatever is not, was changed, or
    speaks of another image raises `ProofError` that names it.
    """
    attached: dict[str, list[dict[str, Any]]] = {}
    for kind, document in _attached(session, digest):
        attached.setdefault(kind, []).append(document)
    said = _signed_statements(session, digest, key) if key else None
    chosen = {kind: _choose(kind, several, said) for kind, several in attached.items()}
    for kind, document in chosen.items():
        _check_subject(kind, document, digest)
    return Proof(digest=digest, documents=chosen, signed=key is not None)


def check_content(proof: Proof, image: ImageListing) -> int:
    """See that the SBOM names what the image holds, no more and no less; return how many packages.

    Compared are names and versions of wheels (METADATA) and of Debian's packages (dpkg's status).
    """
    if SBOM not in proof.documents:
        what = f"the image has no SBOM to compare with: {proof.digest}"
        raise ProofError(what, hint="./kiln push attaches one")
    told, there = set(_told(proof.documents[SBOM])), set(_installed(image))
    lines = [f"in the SBOM alone: {one}" for one in sorted(told - there)]
    lines += [f"in the image alone: {one}" for one in sorted(there - told)]
    if lines:
        what = f"the SBOM is not of what the image holds: {proof.digest}"
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise ProofError(what, "\n".join([*lines[:_SHOWN], *more]))
    return len(there)


def _attached(session: Session, digest: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the documents that refer to the image, with their media types.

    A registry lists what anybody with push access has attached: only signatures tell who.
    """
    for entry in referrers(session, digest):
        for found in documents(session, entry.digest):
            if found.kind in PREDICATES:
                try:
                    yield found.kind, json.loads(found.data)
                except ValueError:
                    what = f"a document is no JSON: {_TITLES[found.kind]}"
                    raise ProofError(what, entry.digest) from None


def _signed_statements(session: Session, digest: str, key: PublicKey) -> dict[str, dict[str, Any]]:
    """Return what the key says of the image, after its signature."""
    signed = documents(session, signatures.tag(digest, signatures.SIGNATURE_TAG))
    signatures.check_signature(key, signed, digest)
    envelopes = documents(session, signatures.tag(digest, signatures.ATTESTATION_TAG))
    return signatures.checked_statements(key, envelopes, digest)


def _choose(
    kind: str, several: list[dict[str, Any]], said: Mapping[str, dict[str, Any]] | None
) -> dict[str, Any]:
    """Return the document of a kind that is signed; where nothing is to be signed, the last one."""
    if said is None:
        return several[-1]
    statement = said.get(PREDICATES[kind])
    if statement is None:
        what = f"a document is not signed by this key: {_TITLES[kind]}"
        raise ProofError(what, "no envelope is by this key and of this image as it was signed")
    signed = statement if kind == PROVENANCE else statement["predicate"]
    if all(canonical(signed) != canonical(one) for one in several):
        what = f"a document is not the one that was signed: {_TITLES[kind]}"
        raise ProofError(what, _difference(signed, several[-1]))
    return dict(signed)


def _check_subject(kind: str, document: dict[str, Any], digest: str) -> None:
    """See that a document is about this image; the smoke report names none."""
    sha256 = digest.removeprefix("sha256:")
    try:
        about = {
            SBOM: lambda: [document["metadata"]["component"]["hashes"][0]["content"]],
            PROVENANCE: lambda: [one["digest"]["sha256"] for one in document["subject"]],
        }.get(kind, lambda: [sha256])()
    except (KeyError, IndexError, TypeError):
        about = []
    if sha256 not in about:
        what = f"a document is about another image: {_TITLES[kind]}"
        raise ProofError(what, f"it is about {about}, this is {sha256}")


def _difference(one: Any, other: Any, path: str = "") -> str:  # noqa: ANN401
    """Return where two JSON values differ first."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                return _difference(one.get(key), other.get(key), f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            if left != right:
                return _difference(left, right, f"{path}[{number}]")
    return f"{path.lstrip('.')}: signed is {_short(one)}, attached is {_short(other)}"


def _short(value: Any) -> str:  # noqa: ANN401
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."  # noqa: PLR2004


def _told(sbom: Mapping[str, Any]) -> Iterator[str]:
    """Give name and version of each wheel and .deb of an SBOM, by its package URL.

    What a wheel has in it of others (setuptools' own copies) is below its component.
    """
    for component in sbom.get("components", ()):
        yield from _told(component)
        kind, _, rest = component.get("purl", "").partition("/")
        if kind == "pkg:pypi":
            name, _, version = rest.partition("?")[0].partition("@")
            yield f"{canonicalize_name(unquote(name))} {unquote(version)}"
        elif kind == "pkg:deb":
            name, _, version = rest.partition("/")[2].partition("?")[0].partition("@")
            yield f"{unquote(name)} {unquote(version)}"


def _installed(image: ImageListing) -> Iterator[str]:
    """Give name and version of each wheel and .deb that is installed in an image."""
    for path, member in image.members.items():
        if _METADATA.fullmatch(path):
            fields = HeaderParser().parsestr(member.text)
            yield f"{canonicalize_name(fields['Name'])} {fields['Version']}"
    status = image.members.get(_STATUS)
    yield from _debs(Deb822.iter_paragraphs((status.text if status else "").splitlines()))


def _debs(paragraphs: Iterable[Mapping[str, str]]) -> Iterator[str]:
    for one in paragraphs:
        if one.get("Status", "").endswith(" installed"):
            yield f"{one['Package']} {one['Version']}"
