"""Small things beside an image: artifacts that refer to it, and manifests that cosign tags.

image-spec 1.1 (artifacts, `subject`), distribution-spec 1.1 (referrers API). A registry without
the API gets the index under the fallback tag `sha256-<hex>`, kept by clients.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from torchkiln.descriptors import Descriptor, descriptor, descriptors, mapping
from torchkiln.errors import RegistryError
from torchkiln.lockfile import canonical
from torchkiln.registry import manifests
from torchkiln.registry.blobs import put_bytes
from torchkiln.registry.refusals import parsing, refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.registry.session import Session

EMPTY: Final = b"{}"
_EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
_LARGEST: Final = 64 << 20  # bytes of a document


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document about an image: `kind` is its media type, and that of the artifact."""

    kind: str
    data: bytes
    annotations: dict[str, str] = field(default_factory=dict)


def attach(session: Session, subject: dict[str, Any], document: Document) -> str:
    """Attach a document to the image that the descriptor `subject` names; return its digest.

    Attaching the same document again changes nothing.
    """
    manifest = artifact(session, [document], artifact_type=document.kind, subject=subject)
    data = canonical(manifest)
    digest, knows_subject = manifests.put_referrer(session, data)
    if not knows_subject:
        _add_to_index(session, subject["digest"], _entry(manifest, data))
    return digest


def artifact(
    session: Session,
    parts: Sequence[Document],
    *,
    artifact_type: str = "",
    subject: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a manifest of the parts, whose bytes are in the registry then."""
    put_bytes(session, EMPTY)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": manifests.OCI_MANIFEST,
        "config": _descriptor(_EMPTY_TYPE, EMPTY),
        "layers": [
            _descriptor(part.kind, part.data)
            | ({"annotations": part.annotations} if part.annotations else {})
            for part in parts
        ],
    }
    for part in parts:
        put_bytes(session, part.data)
    extra = {"artifactType": artifact_type, "subject": subject}
    return manifest | {name: value for name, value in extra.items() if value}


def referrers(session: Session, digest: str) -> list[Descriptor]:
    """Return the descriptors of what refers to the image `digest`, by the API or the index."""
    response = session.answer("GET", f"referrers/{digest}")
    if response.status == 200:  # noqa: PLR2004
        with parsing(session.reference, f"what refers to {digest}"):
            return _listed(json.loads(response.data))
    if response.status not in {400, 404, 405}:
        raise refused(session.reference, f"ask what refers to {digest}", response)
    return [descriptor(one) for one in _indexed(session, digest)]


def documents(session: Session, digest: str) -> list[Document]:
    """Return the documents of the manifest `digest` (or tag), each checked by its hash."""
    found = manifests.find(session, digest)
    if found is None:
        return []
    with parsing(session.reference, f"the manifest {digest}"):
        layers = descriptors(found.document.get("layers"))
    return [
        Document(
            kind=one.kind,
            data=read_blob(session, one.digest),
            annotations=dict(one.annotations),
        )
        for one in layers
    ]


def read_blob(session: Session, digest: str) -> bytes:
    """Return the bytes of a small blob; other bytes than the digest's raise `RegistryError`."""
    data = session.retrying(lambda: session.read(session.url(f"blobs/{digest}")).data, digest)
    if len(data) > _LARGEST or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        what = f"the registry has other bytes than the digest of a document says: {digest}"
        raise RegistryError(what)
    return data


def _indexed(session: Session, digest: str) -> list[dict[str, Any]]:
    """Return the entries of the fallback index, each a descriptor, with all that it says."""
    found = manifests.find(session, _fallback(digest))
    entries: list[dict[str, Any]] = found.document.get("manifests") or [] if found else []
    with parsing(session.reference, f"what refers to {digest}"):
        descriptors(entries)
    return entries


def _listed(document: object) -> list[Descriptor]:
    return descriptors(mapping(document).get("manifests") or [])


def _add_to_index(session: Session, digest: str, entry: dict[str, Any]) -> None:
    entries = _indexed(session, digest)
    if entry["digest"] in {one["digest"] for one in entries}:
        return
    index = {
        "schemaVersion": 2,
        "mediaType": manifests.OCI_INDEX,
        "manifests": [*entries, entry],
    }
    manifests.put(session, canonical(index), manifests.OCI_INDEX, _fallback(digest))


def _entry(manifest: dict[str, Any], data: bytes) -> dict[str, Any]:
    described = _descriptor(manifests.OCI_MANIFEST, data)
    return described | {"artifactType": manifest["artifactType"]}


def _fallback(digest: str) -> str:
    return digest.replace(":", "-")


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": kind, "digest": digest, "size": len(data)}
