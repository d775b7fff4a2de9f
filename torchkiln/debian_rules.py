"""Rules for the Debian part of an image: the locked packages, installed whole, and nothing else.

Each is a pure function over an image's listing and returns the violations it finds.
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Final

from debian.deb822 import Deb822

from torchkiln.config import HOME, PREFIX
from torchkiln.layer_rules import source_of
from torchkiln.listing import DIRECTORY, FILE
from torchkiln.packages import listed_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.listing import ImageListing
    from torchkiln.lockfile import BaseLock

_DPKG: Final = "var/lib/dpkg"
_PATH_RULE: Final = re.compile(r"^path-(exclude|include)[ =](.+)$", re.MULTILINE)
# Written by maintainer scripts, so in no package's list. Anything new here is looked at first.
_CONFIGURED: Final = re.compile(
    r"""(bin|sbin|lib|lib64)
    |etc/(alternatives/.+|apt/sources\.list|ca-certificates\.conf|dpkg/origins/default|environment
      |group|gshadow|hosts|inputrc|ld\.so\.cache|localtime|motd|networks|nsswitch\.conf|passwd|profile
      |python3/debian_config|security/opasswd|shadow|shells|subgid|subuid|timezone
      |pam\.d/common-.+|rc[0-6S]\.d/[KS]\d\d.+|systemd/system/.+\.wants/.+
      |dpkg/dpkg\.cfg\.d/slim|ssl/certs/.+)
    |root/\.(bashrc|profile)
    |usr/(bin|sbin)/(awk|nawk|pager|rmt|which)
    |usr/local/man | usr/share/info/dir | var/spool/mail
    |usr/share/man/.+  # alternatives' links
    |var/cache/debconf/(config|passwords|templates)\.dat
    |var/lib/(dpkg/.+|pam/.+|shells\.state|systemd/deb-systemd-helper-.+|python/python3.*_installed)
    |var/log/(btmp|faillog|lastlog|wtmp)""",
    re.VERBOSE,
)


_OURS: Final = re.compile(
    rf"({PREFIX}|{HOME})/.+"
    r"|etc/(resolv\.conf|ld\.so\.conf\.d/nvidia\.conf|profile\.d/torchkiln\.sh)"
)
# Removed from the image on purpose: places that runtimes mount over, caches, apt's example.
_LEFT_OUT: Final = re.compile(
    r"(run|tmp|proc|sys|dev|var/cache/apt|var/lib/apt/lists)/.+|usr/share/doc/apt/examples/.+"
)


def package_faults(image: ImageListing, lock: BaseLock) -> list[str]:
    """Check that dpkg's database holds what is locked: name, version, architecture, installed."""
    status = image.members.get(f"{_DPKG}/status")
    found = {}
    for entry in Deb822.iter_paragraphs((status.text if status else "").splitlines()):
        found[entry["Package"]] = (entry["Version"], entry["Architecture"], entry["Status"])
    installed = "install ok installed"
    locked = {deb.name: (deb.version, deb.architecture, installed) for deb in lock.debs}
    return [
        f"{name}: is {_shown(found.get(name))}, locked is {_shown(locked.get(name))}"
        for name in sorted(found.keys() | locked.keys())
        if found.get(name) != locked.get(name)
    ]


def _shown(state: tuple[str, str, str] | None) -> str:
    return " ".join(state) if state else "nothing"


def unowned_files(image: ImageListing) -> list[str]:
    """Check that every file outside our prefixes is a package's or made by known scripts."""
    owned = set(_listed(image))
    return [
        f"/{path}: belongs to no package"
        for path, one in image.members.items()
        if one.kind != DIRECTORY and path not in owned and not _OURS.fullmatch(path)
        if not _CONFIGURED.fullmatch(path) and not _bytecode_of(path, owned)
    ]


def missing_files(image: ImageListing) -> list[str]:
    """Check that what packages bring is there, but for what dpkg was told to leave out."""
    rules = _path_rules(image)
    return [
        f"/{path}: is missing"
        for path in sorted(set(_listed(image)) - image.members.keys())
        if path and not _excluded(f"/{path}", rules) and not _LEFT_OUT.fullmatch(path)
    ]


def excluded_files(image: ImageListing) -> list[str]:
    """Check that nothing is there that dpkg was told to leave out."""
    rules = _path_rules(image)
    owned = set(_listed(image))
    return [
        f"/{path}: dpkg was told to leave it out"
        for path, one in image.members.items()
        if one.kind == FILE and path in owned and _excluded(f"/{path}", rules)
    ]


def _listed(image: ImageListing) -> Iterator[str]:
    """Give the paths of all packages' lists."""
    for path in image.members:
        if path.startswith(f"{_DPKG}/info/") and path.endswith(".list"):
            yield from listed_files(image, path)


def _path_rules(image: ImageListing) -> list[tuple[bool, re.Pattern[str]]]:
    """Return dpkg's path filters in order: whether one excludes, and what it matches."""
    rules = []
    for path, one in image.members.items():
        if path.startswith("etc/dpkg/dpkg.cfg.d/"):
            for kind, pattern in _PATH_RULE.findall(one.text):
                rules.append((kind == "exclude", re.compile(fnmatch.translate(pattern))))
    return rules


def _excluded(path: str, rules: list[tuple[bool, re.Pattern[str]]]) -> bool:
    """Tell whether dpkg leaves `path` out: the last filter that matches decides (dpkg(1))."""
    return next((kind for kind, pattern in reversed(rules) if pattern.match(path)), False)


def _bytecode_of(path: str, owned: set[str]) -> bool:
    return path.endswith(".pyc") and source_of(path) in owned
