"""What the store knows of layers: which one was made under which key.

A record may be anybody's, or half of one: what is not in the form that is written here counts for
none, and the layer is made again.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from torchkiln.descriptors import mapping
from torchkiln.digests import parse_sha256, parse_size
from torchkiln.layer import Layer

if TYPE_CHECKING:
    from torchkiln.store import Store

KIND: Final = "layers"
_FIELDS: Final = frozenset(one.name for one in dataclasses.fields(Layer))


def read(store: Store, key: str) -> Layer | None:
    """Return the layer that was made under `key`, None where none is known."""
    record = store.read_record(KIND, key)
    try:
        return parse(record) if record else None
    except ValueError:
        return None


def write(store: Store, key: str, layer: Layer) -> None:
    """Keep that `layer` was made under `key`."""
    store.write_record(KIND, key, vars(layer))


def parse(record: object) -> Layer:
    """Return the layer of a record; `ValueError` says what is wrong with it."""
    fields = mapping(record)
    if fields.keys() != _FIELDS:
        message = f"invalid record of a layer: it has {sorted(fields)}"
        raise ValueError(message)
    return Layer(
        name=str(fields["name"]),
        diff_id=parse_sha256(fields["diff_id"]),
        digest=parse_sha256(fields["digest"]),
        size=parse_size(fields["size"]),
        unpacked=parse_size(fields["unpacked"]),
        codec=str(fields["codec"]),
    )
