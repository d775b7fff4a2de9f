"""What an image holds: the members of its layers, and what a container sees of them.

An unpacked tree has lost owners, times and header formats, so rules about these need the tars.
`torchkiln.image_reader` reads them.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE: Final = "file"
DIRECTORY: Final = "directory"
SYMLINK: Final = "symbolic link"
HARD_LINK: Final = "hard link"
WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member of a layer's tar, its path without leading and trailing slash (the root is "").

    `data` holds the bytes of a file that a rule reads (the header alone of bytecode), else it is
    None. `extensions` names what the header needs beyond ustar: PAX keywords, "GNU".
    """

    path: str
    kind: str = FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    owner: str = ""
    group: str = ""
    mtime: float = 0
    size: int = 0
    target: str = ""
    sha256: str = ""
    data: bytes | None = None
    extensions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def text(self) -> str:
        """Return the text of a file that rules read."""
        return (self.data or b"").decode(errors="replace")


@dataclass(frozen=True, kw_only=True)
class LayerListing:
    """A layer as it is: its members in the tar's order, and the digests (hex) of its bytes.

    `size` and `unpacked` are the bytes of the blob and of the tar.
    """

    name: str
    members: tuple[Member, ...]
    digest: str
    diff_id: str
    size: int
    gzip_header: bytes
    unpacked: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageListing:
    """An image: its documents and what its layers hold.

    Docker's own archives have no index and no manifest: both are empty then.
    """

    index: dict[str, Any]
    manifest: dict[str, Any]
    config: dict[str, Any]
    layers: tuple[LayerListing, ...]

    @cached_property
    def members(self) -> dict[str, Member]:
        """Return what a container sees, by path."""
        return _merged(self.layers)

    @property
    def runtime(self) -> dict[str, Any]:
        """Return the configuration of the image's processes."""
        # Go writes null for what is empty, here and below.
        return cast("dict[str, Any]", self.config.get("config") or {})

    @property
    def entrypoint(self) -> list[str]:
        """Return the words of the entry point; Docker reads a lone string as one word."""
        words = self.runtime.get("Entrypoint") or []
        return [words] if isinstance(words, str) else words

    @cached_property
    def environment(self) -> dict[str, str]:
        """Return the environment of the image's processes."""
        pairs = (entry.partition("=") for entry in self.runtime.get("Env") or [])
        return {name: value for name, _, value in pairs}

    def file(self, path: str) -> Member | None:
        """Return what `path` (without leading slash) leads to, through all symbolic links."""
        for _ in range(40):  # as many links as Linux follows
            steps = [*reversed(PurePosixPath(path).parents[:-1]), path]
            found = (self.members.get(str(step)) for step in steps)
            link = next((one for one in found if one and one.kind == SYMLINK), None)
            if link is None:
                return self.members.get(path)
            target = posixpath.join("/", posixpath.dirname(link.path), link.target)
            path = posixpath.normpath(target + path[len(link.path) :]).lstrip("/")
        return None


def _merged(layers: Iterable[LayerListing]) -> dict[str, Member]:
    """Apply the layers in order (OCI image spec, layer.md).

    A later member hides an earlier one, a whiteout removes one, an opaque one all that a folder had
    in earlier layers. A hard link becomes the file that it is another name of.
    """
    found: dict[str, Member] = {}
    for layer in layers:
        for member in layer.members:
            parent, _, name = member.path.rpartition("/")
            if name == _OPAQUE:
                _remove_below(found, parent)
            elif name.startswith(WHITEOUT):
                gone = posixpath.join(parent, name.removeprefix(WHITEOUT))
                found.pop(gone, None)
                _remove_below(found, gone)
        for member in layer.members:
            if member.name.startswith(WHITEOUT):
                continue
            before = found.get(member.path)
            if before and before.kind == DIRECTORY and member.kind != DIRECTORY:
                _remove_below(found, member.path)
            original = found.get(member.target) if member.kind == HARD_LINK else None
            found[member.path] = replace(original, path=member.path) if original else member
    return found


def _remove_below(found: dict[str, Member], folder: str) -> None:
    prefix = f"{folder}/" if folder else ""
    for path in [path for path in found if path.startswith(prefix) and path]:
        del found[path]
