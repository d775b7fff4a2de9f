"""The packages of any image: Debian's and Python's, with the bytes that their files take."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Final, Literal

from debian.deb822 import Deb822
from installer.records import parse_record_file
from packaging.utils import canonicalize_name

from torchkiln.layer_rules import source_of
from torchkiln.listing import FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torchkiln.listing import ImageListing

Kind = Literal["deb", "wheel"]
_DPKG: Final = "var/lib/dpkg"
_MERGED: Final = re.compile(r"(bin|sbin|lib|lib32|lib64|libx32)/")


@dataclass(frozen=True, kw_only=True, order=True)
class Package:
    """An installed package; `size` is in bytes, bytecode included."""

    kind: Kind
    name: str
    version: str
    size: int


def installed(image: ImageListing) -> list[Package]:
    """Return the packages of `image`, sorted by kind and name."""
    return sorted([*_debs(image), *_wheels(image)])


def listed_files(image: ImageListing, list_path: str) -> Iterator[str]:
    """Give the paths of dpkg's list at `list_path`, where they lie since the merge of /usr."""
    for line in image.members[list_path].text.splitlines():
        name = line.lstrip("/").removeprefix(".")
        yield f"usr/{name}" if _MERGED.match(name) else name


def sums_of(image: ImageListing) -> Iterator[tuple[str, str]]:
    """Give path and md5 (hex) of each file that dpkg knows the bytes of."""
    for path, one in image.members.items():
        if path.startswith(f"{_DPKG}/info/") and path.endswith(".md5sums"):
            for line in one.text.splitlines():
                value, _, name = line.partition("  ")
                yield (f"usr/{name}" if _MERGED.match(name) else name), value


def recorded_files(image: ImageListing, dist_info: str) -> list[tuple[str, str]]:
    """Return the path in the image and the hash of each row of a distribution's RECORD."""
    record = image.members.get(f"{dist_info}/RECORD")
    site = dist_info.rpartition("/")[0]
    rows = parse_record_file(record.text.splitlines()) if record else []
    return [(os.path.normpath(f"{site}/{path}"), value) for path, value, _ in rows]


def _debs(image: ImageListing) -> Iterator[Package]:
    status = image.members.get(f"{_DPKG}/status")
    for entry in Deb822.iter_paragraphs((status.text if status else "").splitlines()):
        name, architecture = entry["Package"], entry.get("Architecture", "")
        lists = (f"{_DPKG}/info/{stem}.list" for stem in (name, f"{name}:{architecture}"))
        paths = {path for one in lists if one in image.members for path in listed_files(image, one)}
        size = _size(image, paths)
        yield Package(kind="deb", name=name, version=entry.get("Version", ""), size=size)


def _wheels(image: ImageListing) -> Iterator[Package]:
    bytecode = _bytecode(image)
    for path, member in image.members.items():
        folder, _, file = path.rpartition("/")
        # A package that vendors others has their .dist-info deeper than its own.
        if file != "METADATA" or not re.fullmatch(r".*-packages/[^/]+\.dist-info", folder):
            continue
        metadata = HeaderParser().parsestr(member.text)
        paths = {path for path, _ in recorded_files(image, folder)}
        paths |= {cached for one in paths for cached in bytecode.get(one, ())}
        yield Package(
            kind="wheel",
            name=canonicalize_name(metadata["Name"] or ""),
            version=metadata["Version"] or "",
            size=_size(image, paths),
        )


def _bytecode(image: ImageListing) -> dict[str, list[str]]:
    """Return the bytecode of each source by the source's path."""
    found: dict[str, list[str]] = {}
    for path in image.members:
        if path.endswith(".pyc"):
            found.setdefault(source_of(path), []).append(path)
    return found


def _size(image: ImageListing, paths: Iterable[str]) -> int:
    members = (image.members.get(path) for path in paths)
    return sum(member.size for member in members if member and member.kind == FILE)
