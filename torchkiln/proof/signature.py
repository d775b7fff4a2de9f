"""What is signed and how it is kept in a registry, in cosign's format.

An image's signature (cosign's SIGNATURE_SPEC.md): a payload that names the digest, as a layer of a
manifest tagged `sha256-<hex>.sig`. An attestation (cosign's ATTESTATION_SPEC.md): an in-toto
statement in a DSSE envelope, as a layer of a manifest tagged `sha256-<hex>.att`.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from torchkiln.errors import ProofError
from torchkiln.lockfile import canonical
from torchkiln.proof.keys import is_signed, sign
from torchkiln.proof.statement import MEDIA_TYPE
from torchkiln.registry.artifacts import Document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.proof.keys import PrivateKey, PublicKey

SIGNATURE_TAG: Final = "sig"
ATTESTATION_TAG: Final = "att"
_PAYLOAD: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
_ENVELOPE: Final = "application/vnd.dsse.envelope.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"


def tag(digest: str, kind: str) -> str:
    """Return the tag under which cosign keeps what belongs to an image."""
    return f"{digest.replace(':', '-')}.{kind}"


def signature(key: PrivateKey, name: str, digest: str) -> Document:
    """Return the signature of the image `digest`, which is `name` in its registry."""
    payload = canonical(
        {
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
    )
    return Document(kind=_PAYLOAD, data=payload, annotations={SIGNATURE: sign(key, payload)})


def check_signature(key: PublicKey, parts: Sequence[Document], digest: str) -> None:
    """See that one of the signatures is by `key` and of this image; raise `ProofError` if none."""
    faults = [_signature_fault(key, part, digest) for part in parts]
    if not faults:
        what = f"the image is not signed: {digest}"
        raise ProofError(what)
    if all(faults):
        what = f"no signature of the image is good: {digest}"
        raise ProofError(what, "\n".join(dict.fromkeys(filter(None, faults))))


def _signature_fault(key: PublicKey, part: Document, digest: str) -> str:
    if not is_signed(key, part.data, part.annotations.get(SIGNATURE, "")):
        return "the signature is not by this key, or what it signs was changed"
    try:
        critical = json.loads(part.data)["critical"]
        signed = critical["image"]["docker-manifest-digest"]
    except (ValueError, KeyError, TypeError):
        return "what was signed is no payload of cosign"
    return "" if signed == digest else f"it is a signature of another image: {signed}"


def attestation(key: PrivateKey, said: dict[str, Any]) -> Document:
    """Return a statement in a signed envelope (DSSE 1.0)."""
    payload = canonical(said)
    envelope = {
        "payloadType": MEDIA_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": "", "sig": sign(key, _to_sign(payload))}],
    }
    return Document(
        kind=_ENVELOPE,
        data=canonical(envelope),
        annotations={SIGNATURE: "", "predicateType": said["predicateType"]},
    )


def checked_statements(
    key: PublicKey, parts: Sequence[Document], digest: str
) -> dict[str, dict[str, Any]]:
    """Return what `key` says of the image, by the predicate's type.

    Other people's envelopes and those that were changed are not told apart, and left out.
    """
    opened = [_opened(key, part) for part in parts]
    return {
        said["predicateType"]: said
        for said in opened
        if said and _is_about(said, digest.removeprefix("sha256:"))
    }


def _opened(key: PublicKey, part: Document) -> dict[str, Any] | None:
    """Return the statement in an envelope, None if `key` has not signed it."""
    try:
        envelope = json.loads(part.data)
        said: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"], validate=True))
        return said if is_enveloped(key, envelope) else None
    except (ValueError, KeyError, TypeError):
        return None


def _is_about(said: dict[str, Any], sha256: str) -> bool:
    return sha256 in {one["digest"].get("sha256") for one in said["subject"]}


def is_enveloped(key: PublicKey, envelope: dict[str, Any]) -> bool:
    """Tell whether `key` has signed what is in an envelope."""
    payload = base64.b64decode(envelope["payload"])
    return any(is_signed(key, _to_sign(payload), one["sig"]) for one in envelope["signatures"])


def _to_sign(payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding."""
    kind = MEDIA_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
