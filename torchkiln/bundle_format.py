"""The form of a bundle: one tar, each byte of which follows from its first file.

    bundle.json       role, size and sha256 of each file, the variants, the images' digests
    SHA256SUMS        the same for `sha256sum --check`, after a plain `tar -x`
    load              sets Torchkiln up where there is this file and a Python alone
    torchkiln.tar     Torchkiln itself
    requirements/     the wheels that its own environment is made of
    locks/, sbom/     what the images are built from, and documents on it
    records/          which layer was made under which key
    blobs/sha256/     wheels, .debs, layers, configurations, manifests

A reader compares each header with the one that `bundle.json` makes necessary, and interprets none.
So there is no place for one more file, a path out of its folder, a link or a name given twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from torchkiln.digests import parse_digest, parse_sha256, parse_size
from torchkiln.errors import ArchiveError
from torchkiln.layer import MTIME
from torchkiln.lockfile import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT: Final = 1
INDEX: Final = "bundle.json"
SUMS: Final = "SHA256SUMS"
MOST: Final = 16 << 20
"""Bytes of `bundle.json` at most; that of all variants has 0.1 MB."""

_BLOB: Final = r"blobs/sha256/[0-9a-f]{64}"
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
ROLES: Final = {
    "loader": "load",
    "source": r"torchkiln\.tar",
    "requirement": rf"requirements/{_NAME}",
    "lock": rf"locks/{_NAME}",
    "sbom": rf"sbom/{_NAME}",
    "record": r"records/[0-9a-f]{64}",
    "manifest": _BLOB,
    "config": _BLOB,
    "deb": _BLOB,
    "wheel": _BLOB,
    "layer": _BLOB,
}
"""Where the files of a role lie (regular expressions), in the order in which they come."""

BLOBS: Final = frozenset(role for role, place in ROLES.items() if place == _BLOB)
END: Final = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file of the bundle: `size` in bytes, `sha256` in hex; `name` is what people call it."""

    role: str
    path: str
    name: str
    size: int
    sha256: str

    @property
    def header(self) -> bytes:
        """Return what stands before its bytes in the tar."""
        info = tarfile.TarInfo(self.path)
        info.size, info.mtime = self.size, MTIME
        info.mode = 0o755 if self.role == "loader" else 0o644
        return info.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8")

    @property
    def padding(self) -> bytes:
        """Return what stands behind its bytes in the tar."""
        return bytes(-self.size % tarfile.BLOCKSIZE)

    @property
    def length(self) -> int:
        """Return the bytes that it takes in the tar."""
        return len(self.header) + self.size + len(self.padding)

    @property
    def order(self) -> tuple[int, str]:
        """Return what parts are sorted by: small ones first, so that a loader finds them soon."""
        return list(ROLES).index(self.role), self.path


@dataclass(frozen=True, kw_only=True)
class Index:
    """What `bundle.json` says.

    `images` are the digests (`sha256:<hex>`) by variant, of those that are in it built; `python` is
    the version (major.minor) that the requirements' wheels are for.
    """

    variants: tuple[str, ...]
    images: Mapping[str, str]
    python: str
    parts: tuple[Part, ...]

    @property
    def data(self) -> bytes:
        """Return the bytes of `bundle.json`."""
        return canonical(asdict(self) | {"format": FORMAT}) + b"\n"

    @property
    def sums(self) -> bytes:
        """Return the bytes of SHA256SUMS."""
        ahead = document(INDEX, self.data)
        lines = [f"{one.sha256}  {one.path}\n" for one in (ahead, *self.parts)]
        return "".join(lines).encode()

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """Return every file in the order of the tar, those too that `bundle.json` cannot name."""
        return (document(INDEX, self.data), document(SUMS, self.sums), *self.parts)

    @property
    def length(self) -> int:
        """Return the bytes of the whole bundle."""
        return sum(part.length for part in self.all_parts) + len(END)


def document(path: str, data: bytes) -> Part:
    """Return the part of a file whose bytes are known."""
    return part("index", path, path, data)


def part(role: str, path: str, name: str, data: bytes) -> Part:
    """Return the part of a file with these bytes."""
    sha256 = hashlib.sha256(data).hexdigest()
    return Part(role=role, path=path, name=name, size=len(data), sha256=sha256)


def parse(data: bytes, title: str) -> Index:
    """Return what the bytes of a `bundle.json` say.

    What no `bundle` writes raises `ArchiveError`: unknown roles, paths that are not their role's,
    a path twice, another order, other bytes for the same.
    """
    try:
        body = json.loads(data)
        number = body.pop("format")
        if number == FORMAT:
            parts = tuple(Part(**one) for one in body.pop("parts"))
            index = Index(variants=tuple(body.pop("variants")), parts=parts, **body)
            for digest in index.images.values():
                parse_digest(digest)
            faults = [*map(_fault, parts), *_disorder(parts), *_foreign(index)]
            faults += [] if index.data == data else ["it is not written as `bundle` writes it"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise refused(title, f"its {INDEX} cannot be read: {error!r}") from None
    if number != FORMAT:
        why = f"it has the format {number}, this Torchkiln reads {FORMAT}"
        what = f"this bundle is for another Torchkiln: {title}"
        raise ArchiveError(
            what, why, "load it with its own: tar -xf BUNDLE load, then ./load BUNDLE FOLDER"
        )
    if any(faults):
        raise refused(title, "\n".join(f"{INDEX}: {fault}" for fault in faults if fault))
    return index


def refused(title: str, why: str) -> ArchiveError:
    """Return the error for a bundle that is not as it was written."""
    what = f"this is not the bundle that was written: {title}"
    return ArchiveError(what, why, "copy it again, and compare `sha256sum` with what `bundle` said")


def _fault(one: Part) -> str:
    try:
        parse_size(one.size)
        parse_sha256(one.sha256)
    except ValueError as error:
        return f"{one.path}: {error}"
    if one.role not in ROLES or not re.fullmatch(ROLES[one.role], one.path):
        return f"there may be no such file: {one.role} {one.path}"
    if not one.name.isprintable():
        return f"a name holds control characters: {one.path}"
    if one.role in BLOBS and one.path.rpartition("/")[2] != one.sha256:
        return f"a blob has another name than its hash: {one.path}"
    return ""


def _foreign(index: Index) -> list[str]:
    names = [*index.variants, *index.images]
    return [f"no name of a variant: {name!r}" for name in names if not re.fullmatch(_NAME, name)]


def _disorder(parts: Sequence[Part]) -> list[str]:
    """Return what is wrong with the order; a path given twice is out of order too."""
    if any(one.role not in ROLES for one in parts):
        return []
    orders = [one.order for one in parts]
    counts = Counter(one.path for one in parts)
    twice = [path for path, count in counts.items() if count > 1]
    faults = [f"named twice: {path}" for path in sorted(twice)]
    return faults + ([] if orders == sorted(orders) else ["its files are not in order"])
