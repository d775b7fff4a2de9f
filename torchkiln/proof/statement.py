"""What is said of an image in a form that others read: in-toto's Statement v1."""

from __future__ import annotations

from typing import Any, Final

MEDIA_TYPE: Final = "application/vnd.in-toto+json"
_TYPE: Final = "https://in-toto.io/Statement/v1"


def statement(name: str, sha256: str, kind: str, predicate: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the statement that says `predicate`, of the type `kind`, of the image `name`."""
    return {
        "_type": _TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}}],
        "predicateType": kind,
        "predicate": predicate,
    }
