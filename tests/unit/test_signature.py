"""Documents and signatures beside an image: who says what of it, and what was changed."""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from image_archives import CONFIG, layer
from nacl.secret import SecretBox
from registry_server import RegistryState, registry

from torchkiln.errors import KeyFileError, ProofError
from torchkiln.image import Image, write_image
from torchkiln.image_reader import read_layout
from torchkiln.layer import Entry
from torchkiln.proof import keys
from torchkiln.proof.attach import PROVENANCE, SBOM, SMOKE, publish
from torchkiln.proof.check import Proof, check_content, read_proof
from torchkiln.registry.push import push
from torchkiln.registry.reference import Reference
from torchkiln.registry.session import Session
from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ENVIRON = {"HOME": "/nonexistent"}
_STATUS = "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n\n"
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(params=[True, False], ids=["referrers", "fallback tag"])
def there(request: pytest.FixtureRequest) -> Iterator[RegistryState]:
    """A registry that knows of referrers, and one that does not."""
    with registry(referrers=request.param) as state:
        yield state


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image of one wheel and one Debian package."""
    store = Store(tmp_path / "store")
    site = "opt/venv/lib/python3.11/site-packages/Some_Thing-1.0+cpu.dist-info/METADATA"
    metadata = b"Metadata-Version: 2.1\nName: Some_Thing\nVersion: 1.0+cpu\n"
    base = layer(store, "base", Entry.text("var/lib/dpkg/status", _STATUS.encode()))
    wheels = layer(store, "wheels", Entry.text(site, metadata))
    return write_image(store, "cpu", [base, wheels], CONFIG)


def documents(image: Image) -> dict[str, Any]:
    """Return documents as `push` attaches them, in small."""
    return {
        SBOM: {
            "metadata": {"component": {"hashes": [{"content": image.digest}]}},
            "components": [
                {"purl": "pkg:pypi/some-thing@1.0%2Bcpu"},
                {"purl": "pkg:deb/debian/bash@5.2-1?arch=amd64"},
            ],
        },
        PROVENANCE: {
            "subject": [{"name": "torchkiln:cpu", "digest": {"sha256": image.digest}}],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {"buildDefinition": {"buildType": "test"}},
        },
        SMOKE: {"passed": True},
    }


def session(there: RegistryState) -> Session:
    reference = Reference(registry=there.address, repository="torch/cpu")
    return Session(reference, _ENVIRON, push=True)


def published(
    there: RegistryState,
    image: Image,
    key: ec.EllipticCurvePrivateKey | None = KEY,
    changed: dict[str, Any] | None = None,
) -> None:
    """Push the image with its documents, some of them others than `push` would attach."""
    reference = Reference(registry=there.address, repository="torch/cpu")
    push(Store(image.layout.parents[1]), image, reference, ["cpu"], _ENVIRON)
    with closing(session(there)) as to:
        publish(to, image, documents(image) | (changed or {}), key)


def read(there: RegistryState, image: Image, key: ec.EllipticCurvePrivateKey | None = KEY) -> Proof:
    with closing(session(there)) as to:
        return read_proof(to, f"sha256:{image.digest}", key.public_key() if key else None)


def test_what_was_attached_and_signed_is_read_back(there: RegistryState, image: Image) -> None:
    published(there, image)
    proof = read(there, image)

    assert documents(image) == proof.documents
    assert proof.signed
    assert 2 == check_content(proof, read_layout(image.layout))


def test_attaching_again_changes_nothing(there: RegistryState, image: Image) -> None:
    published(there, image)
    before = {name: data for name, (_, data) in there.manifests["torch/cpu"].items()}
    published(there, image)

    assert before == {name: data for name, (_, data) in there.manifests["torch/cpu"].items()}


def test_two_people_sign_one_image(there: RegistryState, image: Image) -> None:
    published(there, image, KEY)
    published(there, image, OTHER)

    assert read(there, image, KEY).signed
    assert read(there, image, OTHER).signed


def test_without_a_key_nothing_is_said_of_who_made_it(there: RegistryState, image: Image) -> None:
    published(there, image, None)

    assert not read(there, image, None).signed
    with pytest.raises(ProofError, match="not signed"):
        read(there, image, KEY)


def test_the_signature_of_another_key_is_refused(there: RegistryState, image: Image) -> None:
    published(there, image, OTHER)
    with pytest.raises(ProofError, match="no signature of the image is good"):
        read(there, image, KEY)


def test_the_signature_of_another_image_is_refused(
    there: RegistryState, image: Image, tmp_path: Path
) -> None:
    published(there, image)
    store = Store(tmp_path / "store")
    other = write_image(store, "cpu", [image.layers[0]], CONFIG)
    have = there.manifests["torch/cpu"]
    for kind in ("sig", "att"):
        have[f"sha256-{other.digest}.{kind}"] = have[f"sha256-{image.digest}.{kind}"]

    with pytest.raises(ProofError, match="no signature") as caught:
        read(there, other, KEY)
    assert f"another image: sha256:{image.digest}" in caught.value.why


@pytest.mark.parametrize(("kind", "name"), [(SBOM, "SBOM"), (PROVENANCE, "provenance")])
def test_a_document_that_was_exchanged_is_named(
    kind: str, name: str, there: RegistryState, image: Image
) -> None:
    """Whoever may push attaches what he likes; only the key says what holds."""
    published(there, image)
    (digest,) = [
        name
        for name, (_, data) in there.manifests["torch/cpu"].items()
        if name.startswith("sha256:") and json.loads(data).get("artifactType") == kind
    ]
    changed = json.loads(json.dumps(documents(image)[kind]))
    if kind == SBOM:
        changed["components"][1]["purl"] = "pkg:deb/debian/bash@5.2-2?arch=amd64"
    else:
        changed["predicate"]["buildDefinition"]["buildType"] = "another"
    replace_document(there, digest, json.dumps(changed).encode())

    with pytest.raises(ProofError, match=f"not the one that was signed: {name}") as caught:
        read(there, image)
    assert ("5.2-2" if kind == SBOM else "another") in caught.value.why


def replace_document(there: RegistryState, digest: str, data: bytes) -> None:
    """Put other bytes in the place of an artifact's document, with hashes that fit."""
    kind, manifest = there.manifests["torch/cpu"][digest]
    document = json.loads(manifest)
    new = f"sha256:{hashlib.sha256(data).hexdigest()}"
    there.blobs["torch/cpu"][new] = data
    document["layers"][0] |= {"digest": new, "size": len(data)}
    changed = json.dumps(document).encode()
    place = f"sha256:{hashlib.sha256(changed).hexdigest()}"
    there.manifests["torch/cpu"][place] = (kind, changed)
    del there.manifests["torch/cpu"][digest]
    for name, (_, found) in list(there.manifests["torch/cpu"].items()):
        if name.count("-") == 1 and digest.encode() in found:  # the index under the fallback tag
            index = found.replace(digest.encode(), place.encode())
            there.manifests["torch/cpu"][name] = ("application/vnd.oci.image.index.v1+json", index)


def test_an_envelope_that_was_changed_is_refused(there: RegistryState, image: Image) -> None:
    published(there, image)
    kind, manifest = there.manifests["torch/cpu"][f"sha256-{image.digest}.att"]
    document = json.loads(manifest)
    envelope = json.loads(there.blobs["torch/cpu"][document["layers"][0]["digest"]])
    payload = base64.b64decode(envelope["payload"]).replace(b"bash", b"dash")
    envelope["payload"] = base64.b64encode(payload).decode()
    data = json.dumps(envelope).encode()
    new = f"sha256:{hashlib.sha256(data).hexdigest()}"
    there.blobs["torch/cpu"][new] = data
    document["layers"][0] |= {"digest": new, "size": len(data)}
    place = f"sha256-{image.digest}.att"
    there.manifests["torch/cpu"][place] = (kind, json.dumps(document).encode())

    with pytest.raises(ProofError, match="not signed by this key: SBOM"):
        read(there, image)


def test_a_document_about_another_image_is_refused(there: RegistryState, image: Image) -> None:
    other = documents(image)[SBOM] | {
        "metadata": {"component": {"hashes": [{"content": "0" * 64}]}}
    }
    published(there, image, None, {SBOM: other})
    with pytest.raises(ProofError, match="about another image: SBOM"):
        read(there, image, None)


@pytest.mark.parametrize(
    ("purl", "fault"),
    [
        ("pkg:pypi/some-thing@1.1", "in the SBOM alone: some-thing 1.1"),
        ("pkg:deb/debian/dash@1", "in the SBOM alone: dash 1"),
        ("", "in the image alone: some-thing 1.0+cpu"),
    ],
)
def test_an_sbom_that_names_other_packages_is_refused(
    purl: str, fault: str, there: RegistryState, image: Image
) -> None:
    changed = documents(image)[SBOM]
    changed["components"][0]["purl"] = purl
    published(there, image, None, {SBOM: changed})
    proof = read(there, image, None)

    with pytest.raises(ProofError) as caught:
        check_content(proof, read_layout(image.layout))
    assert fault in caught.value.why


def pem(key: Any, password: bytes | None = None) -> bytes:  # noqa: ANN401
    """Return a private key as openssl writes it."""
    how = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    data: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how
    )
    return data


def cosigns(key: ec.EllipticCurvePrivateKey, password: bytes) -> bytes:
    """Return a private key as cosign writes it, with a cheap scrypt."""
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    salt, nonce = b"s" * 32, b"n" * 24
    secret = hashlib.scrypt(password, salt=salt, n=1024, r=8, p=1, dklen=32)
    document = {
        "kdf": {
            "name": "scrypt",
            "params": {"N": 1024, "r": 8, "p": 1},
            "salt": base64.b64encode(salt).decode(),
        },
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(SecretBox(secret).encrypt(der, nonce).ciphertext).decode(),
    }
    body = base64.b64encode(json.dumps(document).encode()).decode()
    name = "ENCRYPTED SIGSTORE PRIVATE KEY"
    return f"-----BEGIN {name}-----\n{body}\n-----END {name}-----\n".encode()


@pytest.mark.parametrize("form", ["plain", "password", "cosign"])
def test_keys_of_each_form_sign(form: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(
        {"plain": pem(KEY), "password": pem(KEY, b"pw"), "cosign": cosigns(KEY, b"pw")}[form]
    )
    key = keys.load_private(path, {"COSIGN_PASSWORD": "pw"})
    signature = keys.sign(key, b"data")

    assert keys.is_signed(KEY.public_key(), b"data", signature)
    assert not keys.is_signed(KEY.public_key(), b"date", signature)
    assert not keys.is_signed(OTHER.public_key(), b"data", signature)
    assert not keys.is_signed(KEY.public_key(), b"data", "no base64")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pem(KEY, b"other"), "password is wrong"),
        (cosigns(KEY, b"other"), "password is wrong"),
        (b"-----BEGIN PRIVATE KEY-----\n", "no private key"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "no ECDSA key on P-256"),
        (pem(rsa.generate_private_key(65537, 2048)), "no ECDSA key on P-256"),
    ],
)
def test_a_key_that_cannot_sign_is_refused(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    with pytest.raises(KeyFileError) as caught:
        keys.load_private(path, {"COSIGN_PASSWORD": "pw"})
    assert why in caught.value.why


def test_a_password_that_nobody_can_be_asked_for_is_said(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(pem(KEY, b"pw"))
    with pytest.raises(KeyFileError, match="cannot be used") as caught:
        keys.load_private(path, {})
    assert "COSIGN_PASSWORD is not set" in caught.value.why
