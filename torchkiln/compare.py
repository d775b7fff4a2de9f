"""Where two layers differ: by path and by field, so that a broken promise can be mended."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchkiln.archive import open_gzip
from torchkiln.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FIELDS: Final = ("type", "mode", "uid", "gid", "uname", "gname", "mtime", "size", "linkname")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field of one path that is not the same; a missing path has the field `presence`."""

    layer: str
    path: str
    field: str
    first: str
    second: str

    def __str__(self) -> str:
        """Return the difference as one line."""
        return f"{self.layer}: /{self.path}: {self.field}: {self.first} != {self.second}"


def layer_differences(layer: str, first: Path, second: Path) -> Iterator[Difference]:
    """Give the differences between two compressed layers; none where only the codec differs."""
    one, two = _members(first), _members(second)

    def difference(path: str, field: str, first: str, second: str) -> Difference:
        return Difference(layer=layer, path=path, field=field, first=first, second=second)

    for path in sorted(one.keys() | two.keys()):
        if path not in one or path not in two:
            present = ("there", "absent") if path in one else ("absent", "there")
            yield difference(path, "presence", *present)
            continue
        for field in one[path] | two[path]:
            values = one[path].get(field, "none"), two[path].get(field, "none")
            if values[0] != values[1]:
                yield difference(path, field, *values)
    # Of an order that is not the same, the first place says enough.
    orders = [path for path in one if path in two], [path for path in two if path in one]
    for here, there in zip(*orders, strict=True):
        if here != there:
            yield difference(here, "order", f"/{here}", f"/{there}")
            break


def _members(path: Path) -> dict[str, dict[str, str]]:
    found = {}
    with open_gzip(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            fields = {name: str(getattr(member, name)) for name in _FIELDS}
            fields["mode"] = f"{member.mode:o}"
            # Of a link, extractfile() raises StreamError.
            if member.isfile() and (content := archive.extractfile(member)):
                fields["content"] = sha256_of(content)
            found[member.name] = fields
    return found
