"""Descriptors: how manifests and indexes name what they are made of (image-spec 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from torchkiln.digests import parse_digest, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAYER_NAME: Final = "io.torchkiln.layer"
"""The annotation of a layer that says what people call it."""


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """A blob that a document names: `sha256` in hex, `size` in bytes."""

    kind: str
    sha256: str
    size: int
    annotations: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Return the digest as documents write it."""
        return f"sha256:{self.sha256}"

    def name(self, otherwise: str) -> str:
        """Return what people call a layer; a name that cannot be printed counts for none."""
        said = self.annotations.get(LAYER_NAME, "")
        return said if said and said.isprintable() else otherwise


def descriptor(entry: object) -> Descriptor:
    """Return what `entry` of a document says; `ValueError` names what is wrong with it."""
    fields = mapping(entry)
    annotations = mapping(fields.get("annotations") or {})
    return Descriptor(
        kind=str(fields.get("mediaType", "")),
        sha256=parse_digest(fields.get("digest")),
        size=parse_size(fields.get("size")),
        annotations={name: str(value) for name, value in annotations.items()},
    )


def descriptors(entries: object) -> list[Descriptor]:
    """Return what a list of descriptors says."""
    return [descriptor(entry) for entry in items(entries)]


def diff_ids(config: object) -> list[str]:
    """Return the hashes (hex) of the layers' tars, by an image's configuration."""
    rootfs = mapping(mapping(config).get("rootfs") or {})
    return [parse_digest(one) for one in items(rootfs.get("diff_ids") or [])]


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; anything else raises `ValueError`."""
    if not isinstance(value, dict):
        message = f"invalid document: expected an object, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004 - a fault of the document
    return value


def items(value: object) -> Sequence[Any]:
    """Return a JSON list; anything else raises `ValueError`."""
    if not isinstance(value, list):
        message = f"invalid document: expected a list, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004 - a fault of the document
    return value
