"""Tell a registry of an image what it holds, what it was made from, how it ran, and who says so.

Each document is an artifact that refers to the image. With a key, the image has cosign's signature
and each document is said again in a signed envelope, so that `cosign verify` and
`cosign verify-attestation` know them without Torchkiln.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from torchkiln.lockfile import canonical
from torchkiln.proof import provenance as provenances
from torchkiln.proof import sbom as sboms
from torchkiln.proof import signature as signatures
from torchkiln.proof import statement
from torchkiln.proof.keys import is_signed
from torchkiln.registry import manifests
from torchkiln.registry.artifacts import Document, artifact, attach, documents
from torchkiln.smoke import last_report

if TYPE_CHECKING:
    from torchkiln.engine.job import Job
    from torchkiln.image import Image
    from torchkiln.proof.keys import PrivateKey, PublicKey
    from torchkiln.registry.session import Session

SBOM: Final = sboms.MEDIA_TYPE
PROVENANCE: Final = statement.MEDIA_TYPE
SMOKE: Final = "application/vnd.torchkiln.smoke-report.v1+json"
PREDICATES: Final = {
    SBOM: "https://cyclonedx.org/bom",
    PROVENANCE: provenances.PREDICATE,
    SMOKE: "pkg:generic/torchkiln#smoke-report/v1",
}
"""The predicate type by the media type of the document."""


def described(job: Job, image: Image) -> dict[str, Any]:
    """Return the documents of a built image by their media type."""
    found: dict[str, Any] = {
        SBOM: sboms.sbom(job, image),
        PROVENANCE: provenances.provenance(job, image),
    }
    report = last_report(job.store, image)
    return found | ({SMOKE: report.document} if report else {})


def publish(
    session: Session, image: Image, described: dict[str, Any], key: PrivateKey | None
) -> list[str]:
    """Attach the documents to the image in the registry, signed if there is a key.

    Return their digests there. Doing it again with the same adds nothing.
    """
    digest = f"sha256:{image.digest}"
    subject = {
        "mediaType": manifests.OCI_MANIFEST,
        "digest": digest,
        "size": len((image.layout / "blobs/sha256" / image.digest).read_bytes()),
    }
    attached = [
        attach(session, subject, Document(kind=kind, data=canonical(document)))
        for kind, document in described.items()
    ]
    if key:
        _sign(session, subject, described, key)
    return attached


def statements(name: str, sha256: str, described: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is said of the image: provenance is a statement already."""
    return [
        document
        if kind == PROVENANCE
        else statement.statement(name, sha256, PREDICATES[kind], document)
        for kind, document in described.items()
    ]


def _sign(
    session: Session, subject: dict[str, Any], described: dict[str, Any], key: PrivateKey
) -> None:
    """Put the signature and the envelopes beside those of other keys."""
    name, digest = session.reference.name, subject["digest"]
    sha256 = digest.removeprefix("sha256:")
    public = key.public_key()
    envelopes = [signatures.attestation(key, one) for one in statements(name, sha256, described)]
    for tag, new, is_ours in (
        (signatures.SIGNATURE_TAG, [signatures.signature(key, name, digest)], _signed_by),
        (signatures.ATTESTATION_TAG, envelopes, _enveloped_by),
    ):
        place = signatures.tag(digest, tag)
        others = [one for one in documents(session, place) if not is_ours(public, one)]
        manifest = artifact(session, [*others, *new], subject=subject)
        manifests.put(session, canonical(manifest), manifests.OCI_MANIFEST, place)


def _signed_by(public: PublicKey, document: Document) -> bool:
    return is_signed(public, document.data, document.annotations.get(signatures.SIGNATURE, ""))


def _enveloped_by(public: PublicKey, document: Document) -> bool:
    try:
        return signatures.is_enveloped(public, json.loads(document.data))
    except (ValueError, KeyError, TypeError):
        return False
