"""Manifests in a registry: ask for one, check it, choose the one of our platform, put one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from torchkiln.descriptors import descriptor, items, mapping
from torchkiln.digests import parse_digest
from torchkiln.errors import RegistryError
from torchkiln.registry.refusals import parsing, refused

if TYPE_CHECKING:
    import urllib3

    from torchkiln.registry.session import Session

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_DOCKER: Final = "application/vnd.docker.distribution.manifest"
INDEXES: Final = frozenset({OCI_INDEX, f"{_DOCKER}.list.v2+json"})
_MANIFESTS: Final = frozenset({OCI_MANIFEST, f"{_DOCKER}.v2+json"})
_ACCEPT: Final = ", ".join(sorted(INDEXES | _MANIFESTS))
_LARGEST: Final = 4 << 20  # bytes; what registries must take (distribution-spec, pushing manifests)
_PLATFORM: Final = ("linux", "amd64")
_NOT_FOUND: Final = 404


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest as it came: `data` are the bytes of `digest` (`sha256:<hex>`)."""

    data: bytes
    digest: str
    kind: str

    @property
    def document(self) -> dict[str, Any]:
        """Return what it says."""
        document: dict[str, Any] = json.loads(self.data)
        return document


def digest_of(session: Session, name: str) -> str:
    """Return the digest of the manifest with this tag or digest, "" if there is none."""
    response = session.answer("HEAD", f"manifests/{name}", {"Accept": _ACCEPT})
    if response.status == _NOT_FOUND:
        return ""
    if response.status != 200:  # noqa: PLR2004
        raise refused(session.reference, f"look for `{name}`", response)
    if digest := response.headers.get("Docker-Content-Digest", ""):
        with parsing(session.reference, "the digest of a manifest"):
            return f"sha256:{parse_digest(digest)}"
    found = find(session, name)
    return found.digest if found else ""


def find(session: Session, name: str) -> Manifest | None:
    """Return the manifest with this tag or digest, None if there is none.

    Bytes that are not those of the digest asked for, or of that which the registry names, raise
    `RegistryError`.
    """
    response = session.answer("GET", f"manifests/{name}", {"Accept": _ACCEPT})
    if response.status == _NOT_FOUND:
        return None
    if response.status != 200:  # noqa: PLR2004
        raise refused(session.reference, f"read the manifest of `{name}`", response)
    data = response.data
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    promised = name if name.startswith("sha256:") else response.headers.get("Docker-Content-Digest")
    if promised and promised != digest:
        what = f"the registry's manifest is not what its digest says: {session.reference}"
        raise RegistryError(what, f"its bytes are {digest}, not {promised}")
    return Manifest(data=data, digest=digest, kind=_kind(session, response.headers, data))


def image_manifest(session: Session) -> Manifest:
    """Return the manifest of the image that the session's reference names, for our platform."""
    name = session.reference.wanted
    found = find(session, name)
    if found is None:
        what = f"there is no image `{session.reference}`"
        hint = f"skopeo list-tags docker://{session.reference.name}"
        raise RegistryError(what, "the registry does not know it", hint)
    if found.kind in INDEXES:
        found = _of_platform(session, found)
    missing = [key for key in ("config", "layers") if key not in found.document]
    if missing:
        what = f"this is no image: {session.reference}"
        raise RegistryError(what, f"its manifest ({found.kind}) has no `{missing[0]}`")
    return found


def put(session: Session, data: bytes, kind: str, name: str = "") -> str:
    """Put a manifest under its digest, or under the tag `name`; return its digest."""
    return _put(session, data, kind, name)[0]


def put_referrer(session: Session, data: bytes) -> tuple[str, bool]:
    """Put a manifest with a subject; return its digest, and whether the registry lists it there.

    One that knows of referrers says so by `OCI-Subject` (distribution-spec 1.1).
    """
    digest, response = _put(session, data, OCI_MANIFEST, "")
    return digest, "OCI-Subject" in response.headers


def _put(
    session: Session, data: bytes, kind: str, name: str
) -> tuple[str, urllib3.BaseHTTPResponse]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    response = session.answer("PUT", f"manifests/{name or digest}", {"Content-Type": kind}, data)
    if response.status not in {200, 201, 202}:
        raise refused(session.reference, f"put the manifest `{name or digest}`", response)
    kept = response.headers.get("Docker-Content-Digest", digest)
    if kept != digest:
        what = f"the registry has changed the manifest of {session.reference}"
        raise RegistryError(what, f"{digest} was sent, it says {kept}")
    return digest, response


def _of_platform(session: Session, index: Manifest) -> Manifest:
    """Return the one image of an index that runs here; attestations are for no platform."""
    with parsing(session.reference, "the index"):
        entries = items(index.document.get("manifests") or [])
        platforms = [_platform(one) for one in entries]
        fitting = [
            descriptor(one)
            for one, platform in zip(entries, platforms, strict=True)
            if platform == _PLATFORM
        ]
    if not fitting:
        what = f"`{session.reference}` has no image for {'/'.join(_PLATFORM)}"
        raise RegistryError(what, f"it has {platforms}")
    found = find(session, fitting[0].digest)
    if found is None:
        what = f"the registry lacks an image that its index names: {session.reference}"
        raise RegistryError(what, fitting[0].digest)
    return found


def _platform(entry: object) -> tuple[object, object]:
    said = mapping(mapping(entry).get("platform") or {})
    return said.get("os"), said.get("architecture")


def _kind(session: Session, headers: Any, data: bytes) -> str:  # noqa: ANN401 - urllib3's own type
    """Return the media type; the document's own word counts where it has one."""
    if len(data) > _LARGEST:
        what = f"the manifest of {session.reference} is too large: {len(data)} bytes"
        raise RegistryError(what)
    try:
        document = json.loads(data)
        kind = document.get("mediaType") or headers.get("Content-Type", "").partition(";")[0]
    except (ValueError, AttributeError):
        what = f"the manifest of {session.reference} is no JSON object"
        raise RegistryError(what) from None
    return str(kind)
