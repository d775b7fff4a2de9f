"""The user's key: ECDSA on P-256 with SHA-256, as cosign makes and takes it.

A private key is PEM of PKCS #8, plain or with a password, or cosign's own encrypted form
(sigstore's encrypted.go: scrypt and NaCl's secretbox over PKCS #8).
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from torchkiln.errors import KeyFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PASSWORD: Final = "COSIGN_PASSWORD"  # noqa: S105 - the variable's name, cosign's own
_COSIGN: Final = (b"ENCRYPTED SIGSTORE PRIVATE KEY", b"ENCRYPTED COSIGN PRIVATE KEY")
_CURVE: Final = "secp256r1"
_MOST_MEMORY: Final = 256 << 20  # bytes for scrypt
# Deterministic (RFC 6979), so that an image that is signed again has the same signature.
_SCHEME: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def load_private(path: Path, environ: Mapping[str, str]) -> PrivateKey:
    """Return the private key in a file; its password is asked for where it has one.

    `KeyFileError` says what is wrong with the file, and never what is in it.
    """
    data = _read(path)
    try:
        if any(name in data for name in _COSIGN):
            key = serialization.load_der_private_key(_opened(data, path, environ), None)
        elif b"ENCRYPTED" in data:
            key = serialization.load_pem_private_key(data, _password(path, environ))
        else:
            key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, KeyError, CryptoError) as error:
        why = "the password is wrong, or it is no private key"
        raise _bad(path, why) from error
    if not isinstance(key, PrivateKey) or key.curve.name != _CURVE:
        raise _bad(path, "it is no ECDSA key on P-256")
    return key


def load_public(path: Path) -> PublicKey:
    """Return the public key in a file."""
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, TypeError) as error:
        raise _bad(path, "it is no public key in PEM") from error
    if not isinstance(key, PublicKey) or key.curve.name != _CURVE:
        raise _bad(path, "it is no ECDSA key on P-256")
    return key


def sign(key: PrivateKey, data: bytes) -> str:
    """Return the signature (base64 of DER) of `data`; the same for the same data."""
    return base64.b64encode(key.sign(data, _SCHEME)).decode()


def is_signed(key: PublicKey, data: bytes, signature: str) -> bool:
    """Tell whether `signature` (base64 of DER) is one of `data` by this key."""
    try:
        key.verify(base64.b64decode(signature, validate=True), data, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _opened(data: bytes, path: Path, environ: Mapping[str, str]) -> bytes:
    """Return the PKCS #8 bytes in cosign's file."""
    body = b"".join(line for line in data.splitlines() if line and not line.startswith(b"-----"))
    document: dict[str, Any] = json.loads(base64.b64decode(body))
    kdf, cipher = document["kdf"], document["cipher"]
    if (kdf["name"], cipher["name"]) != ("scrypt", "nacl/secretbox"):
        raise _bad(path, f"it is encrypted with {kdf['name']} and {cipher['name']}")
    cost = kdf["params"]
    secret = hashlib.scrypt(
        _password(path, environ),
        salt=base64.b64decode(kdf["salt"]),
        n=cost["N"],
        r=cost["r"],
        p=cost["p"],
        maxmem=_MOST_MEMORY,
        dklen=SecretBox.KEY_SIZE,
    )
    nonce = base64.b64decode(cipher["nonce"])
    return SecretBox(secret).decrypt(base64.b64decode(document["ciphertext"]), nonce)


def _password(path: Path, environ: Mapping[str, str]) -> bytes:
    if (known := environ.get(_PASSWORD)) is not None:
        return known.encode()
    if not sys.stdin.isatty():
        raise _bad(path, f"it has a password, and {_PASSWORD} is not set")
    return getpass.getpass(f"password of {path}: ").encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _bad(path, error.strerror or str(error)) from None


def _bad(path: Path, why: str) -> KeyFileError:
    what = f"this key cannot be used: {path}"
    return KeyFileError(what, why, "cosign generate-key-pair")
