"""Hashes and sizes in words from outside: manifests, locks, indexes, records, archives.

A hash becomes the name of a file in the store and a part of URLs. So no reader takes one but
through here, in the one form that Torchkiln writes: 64 lower-case hex digits, in documents of OCI
behind `sha256:` (image-spec 1.1, descriptor.md, "Digests").
"""

from __future__ import annotations

import re
from typing import Final

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ALGORITHM: Final = "sha256:"
_LARGEST: Final = 1 << 50
"""Bytes of a file; sizes are added up and shown as numbers that have an end."""
_SHOWN: Final = 100  # characters of a value that is no hash


def is_sha256(value: object) -> bool:
    """Tell whether `value` is 64 lower-case hex digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_digest(value: object) -> bool:
    """Tell whether `value` is a digest, `sha256:<hex>`."""
    return (
        isinstance(value, str)
        and value.startswith(_ALGORITHM)
        and is_sha256(value.removeprefix(_ALGORITHM))
    )


def parse_sha256(value: object) -> str:
    """Return the 64 hex digits that `value` is; anything else raises `ValueError`."""
    if not is_sha256(value):
        message = f"invalid sha256: {_short(value)}, expected 64 lower-case hex digits"
        raise ValueError(message)
    return str(value)


def parse_digest(value: object) -> str:
    """Return the hex digits of a digest, `sha256:<hex>`; anything else raises `ValueError`."""
    if not is_digest(value):
        message = f"invalid digest: {_short(value)}, expected sha256:<64 lower-case hex digits>"
        raise ValueError(message)
    return str(value).removeprefix(_ALGORITHM)


def parse_size(value: object) -> int:
    """Return the bytes that a document says; what is no whole number from 0 raises `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        message = f"invalid size: {_short(value)}, expected a number of bytes"
        raise ValueError(message)
    return value


def _short(value: object) -> str:
    """Return a value as it can be shown: without control characters, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
