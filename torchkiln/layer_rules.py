"""Rules for the layers of an image, each a pure function that returns the violations it finds.

They hold for any image that should unpack alike everywhere, without root too; their reasons are in
`torchkiln.layer`, which writes what is checked here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from torchkiln.listing import DIRECTORY, FILE, SYMLINK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.listing import ImageListing, LayerListing, Member

_SET_ID: Final = 0o6000
_KINDS: Final = (FILE, DIRECTORY, SYMLINK)
_FILE_MODES: Final = (0o644, 0o755)
_FOLDER_MODES: Final = (0o755, 0o1777)
_PAX_OF_NAMES: Final = ("path", "linkpath")
_GZIP_DEFLATE: Final = b"\x1f\x8b\x08\x00" + bytes(4)  # RFC 1952: no flags, so no name; MTIME 0
# What tells of a build, not of the system; the empty files of var/log are base-files' own.
_CACHES: Final = re.compile(
    r"""tmp/.+ | run/.+ | var/tmp/.+ | root/\.cache(/.*)? | home/.+
    | var/cache/apt/.+\.(deb|bin) | var/cache/debconf/.+-old | var/cache/ldconfig/.+
    | var/cache/(fontconfig|man)/.+
    | var/lib/apt/lists/.+ | var/lib/dpkg/.+-old | var/lib/dpkg/lock.* | etc/.+- | etc/\.pwd\.lock
    | (.+/)?\.(mypy|ruff|pytest)_cache(/.*)? | (.+/)?\.(git|coverage|DS_Store)
    | etc/(ssh/ssh_host_.+_key(\.pub)?) | var/lib/dbus/machine-id | var/lib/systemd/random-seed""",
    re.VERBOSE,
)


def owners(image: ImageListing) -> list[str]:
    """Check that everything belongs to 0:0, by number: names differ between hosts."""
    return [
        f"/{one.path}: belongs to {one.uid}:{one.gid} ({one.owner or '-'}:{one.group or '-'})"
        for one in _all(image)
        if (one.uid, one.gid, one.owner, one.group) != (0, 0, "", "")
    ]


def permissions(image: ImageListing) -> list[str]:
    """Check that modes are 0644, 0755 and 1777: any user can read all but /root."""
    return [
        f"/{one.path}: has mode {one.mode:04o}" for one in _all(image) if not _mode_is_plain(one)
    ]


def _mode_is_plain(one: Member) -> bool:
    if one.kind == DIRECTORY:
        return one.mode in _FOLDER_MODES or (one.path, one.mode) == ("root", 0o700)
    return one.kind == SYMLINK or one.mode in _FILE_MODES


def set_id(image: ImageListing) -> list[str]:
    """Check that nothing is setuid or setgid, which runtimes without root drop."""
    return [f"/{one.path}: has mode {one.mode:04o}" for one in _all(image) if one.mode & _SET_ID]


def kinds(image: ImageListing) -> list[str]:
    """Check for other kinds than file, directory, symbolic link: devices need root."""
    return [f"/{one.path}: is a {one.kind}" for one in _all(image) if one.kind not in _KINDS]


def headers(image: ImageListing) -> list[str]:
    """Check that PAX records give long names alone: no GNU headers, capabilities, ACLs."""
    return [
        f"/{one.path}: its header has {extension}"
        for one in _all(image)
        for extension in one.extensions
        if extension not in _PAX_OF_NAMES
    ]


def clocks(image: ImageListing, mtime: int) -> list[str]:
    """Check that every time is `mtime` (seconds since 1970) and gzip's header has none."""
    times = [
        f"/{one.path}: has the time {one.mtime:.0f}" for one in _all(image) if one.mtime != mtime
    ]
    return times + [
        f"{layer.name}: its gzip header is {layer.gzip_header.hex()}"
        for layer in image.layers
        if not layer.gzip_header.startswith(_GZIP_DEFLATE)
    ]


def order(image: ImageListing) -> list[str]:
    """Check that each layer has sorted paths, once each, every directory before its contents."""
    return [fault for layer in image.layers for fault in _order(layer)]


def _order(layer: LayerListing) -> Iterator[str]:
    paths = [one.path for one in layer.members]
    folders: set[str] = set()
    for before, one in zip(["", *paths], layer.members, strict=False):
        if one.path.encode() <= before.encode() and one.path:
            yield f"/{one.path}: comes after /{before} in {layer.name}"
        parent = str(PurePosixPath(one.path).parent)
        if parent != "." and parent not in folders:
            yield f"/{one.path}: {layer.name} has no directory /{parent} before it"
        if one.kind == DIRECTORY:
            folders.add(one.path)


def names(image: ImageListing) -> list[str]:
    """Check that no path leaves the image or is a whiteout (OCI image spec, layer.md)."""
    return [
        f"/{one.path}: {'is a whiteout' if one.name.startswith('.wh.') else 'leaves the image'}"
        for one in _all(image)
        if one.name.startswith(".wh.") or ".." in one.path.split("/")
    ]


def only_adds(image: ImageListing) -> list[str]:
    """Check that a path in two layers is the same in both, so that their order does not matter."""
    found: dict[str, tuple[Member, str]] = {}
    faults = []
    for layer in image.layers:
        for one in layer.members:
            known, name = found.setdefault(one.path, (one, layer.name))
            if _identity(known) != _identity(one):
                faults.append(f"/{one.path}: differs between {name} and {layer.name}")
    return faults


def _identity(one: Member) -> tuple[str, int, str, str]:
    return one.kind, one.mode, one.target, one.sha256


def behind_links(image: ImageListing) -> list[str]:
    """Check that nothing is written through a symbolic link, where unpackers go different ways."""
    links = {one.path for one in _all(image) if one.kind == SYMLINK}
    return [
        f"/{path}: lies behind the link /{parent}"
        for path in image.members
        for parent in map(str, PurePosixPath(path).parents)
        if parent in links
    ]


def case_clashes(image: ImageListing) -> list[str]:
    """Check that no two paths differ by case alone: some file systems cannot hold both."""
    groups = defaultdict(list)
    for path in image.members:
        groups[path.casefold()].append(f"/{path}")
    return [
        f"{' and '.join(group)}: differ by case alone" for group in groups.values() if group[1:]
    ]


def caches(image: ImageListing) -> list[str]:
    """Check for caches, logs, locks and backups, and what names one machine."""
    faults = []
    for path, one in image.members.items():
        if _CACHES.fullmatch(path):
            faults.append(f"/{path}: is a leftover")
        elif one.kind == FILE and one.size and path.startswith("var/log/"):
            faults.append(f"/{path}: is a log")
        elif path == "etc/machine-id" and one.text.strip() not in ("", "uninitialized"):
            faults.append(f"/{path}: names a machine")
    return faults


def bytecode(image: ImageListing) -> list[str]:
    """Check that bytecode has its source beside it and no clock in it (PEP 552)."""
    faults = []
    for path, one in image.members.items():
        if not path.endswith(".pyc"):
            continue
        if source_of(path) not in image.members:
            faults.append(f"/{path}: has no source")
        if (one.data or b"")[4:8] != b"\x01\0\0\0":
            faults.append(f"/{path}: is not unchecked hash-based")
    return faults


def source_of(path: str) -> str:
    """Return the path of the source that the bytecode at `path` is from (PEP 3147)."""
    pure = PurePosixPath(path)
    return str(pure.parent.parent / f"{pure.name.partition('.')[0]}.py")


def digests(image: ImageListing) -> list[str]:
    """Check that manifest and config name the layers' bytes and sizes.

    Archives of Docker and Podman may have no manifest; their config is enough.
    """
    faults = []
    said = (image.config.get("rootfs") or {}).get("diff_ids") or []
    if len(said) != len(image.layers):
        faults.append(f"the config has {len(said)} diff_ids for {len(image.layers)} layers")
    for layer, entry in zip(image.layers, image.manifest.get("layers", ()), strict=False):
        if (entry["digest"], entry["size"]) != (f"sha256:{layer.digest}", layer.size):
            faults.append(f"{layer.name}: its bytes are not those that the manifest names")
    for layer, diff_id in zip(image.layers, said, strict=False):
        if diff_id != f"sha256:{layer.diff_id}":
            faults.append(f"{layer.name}: its tar is not the one that the config names")
    return faults


def _all(image: ImageListing) -> Iterator[Member]:
    return (one for layer in image.layers for one in layer.members)
