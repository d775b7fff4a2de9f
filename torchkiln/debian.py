"""Read Debian's signed index: from a suite's InRelease to the newest version of each package.

The chain of trust is apt's: a key committed here signs InRelease, InRelease names the sha256 of
Packages.xz, and Packages.xz names the sha256 of each .deb. So the mirror need not be trusted.

The keys of a release are in `keys/debian-<release>.asc`. For bookworm they are the three that
https://ftp-master.debian.org/keys.html publishes for Debian 12:

    B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8   archive
    05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0   security archive
    4D64FEC119C2029067D6E791F8D2585B8783D481   stable release
"""

from __future__ import annotations

import hashlib
import lzma
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from debian.deb822 import Deb822
from debian.debian_support import Version
from pysequoia import Cert, verify

from torchkiln.digests import parse_sha256
from torchkiln.errors import LockError

KEYS: Final = Path(__file__).parent / "keys"

Get = Callable[[str], bytes]
"""Return the body of a URL; a failure is a `KilnError`."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite of an archive: `bookworm-security` of `debian-security`."""

    archive: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Package:
    """A binary package: its stanza of Packages (deb-src-control(5)), parsed when asked for."""

    name: str
    version: Version
    archive: str
    stanza: str

    def field(self, name: str) -> str:
        """Return a field of the stanza, unfolded; empty where there is none."""
        return str(Deb822(self.stanza).get(name, ""))

    def says(self, line: str) -> bool:
        """Tell whether the stanza holds this line, which is quicker than parsing it."""
        return f"\n{line}\n" in f"\n{self.stanza}\n"


@dataclass(frozen=True, kw_only=True)
class Index:
    """The newest version of each package of a release; `date` is that of the newest suite."""

    date: str
    packages: Mapping[str, Package]


def suites(release: str) -> tuple[Suite, ...]:
    """Return the suites of a stable release, its updates and its security updates."""
    return (
        Suite(archive="debian", name=release),
        Suite(archive="debian", name=f"{release}-updates"),
        Suite(archive="debian-security", name=f"{release}-security"),
    )


def read_keys(release: str) -> list[Cert]:
    """Return the public keys that sign `release`, or raise `LockError` where none is committed."""
    path = KEYS / f"debian-{release}.asc"
    if not path.exists():
        known = sorted(entry.stem.removeprefix("debian-") for entry in KEYS.glob("debian-*.asc"))
        what = f"there are no signing keys for the Debian release `{release}`"
        hint = f"name one of these in `base.release` of `images/variants.yaml`: {', '.join(known)}"
        raise LockError(what, f"not found: torchkiln/keys/{path.name}", hint)
    return Cert.split_file(str(path))


def read_index(
    release: str,
    architecture: str,
    *,
    mirrors: Mapping[str, str],
    get: Get,
    keys: list[Cert],
    now: datetime,
) -> Index:
    """Return the index of `release` from `mirrors` (archive to base URL), checked throughout.

    Raise `LockError` for a bad signature, an index that has expired or is another's, and for
    bytes that are not the signed ones.
    """
    dates: list[datetime] = []
    newest: dict[str, Package] = {}
    for suite in suites(release):
        base = f"{mirrors[suite.archive].rstrip('/')}/dists/{suite.name}"
        inrelease = _read_release(suite, get(f"{base}/InRelease"), keys, now)
        dates.append(_date(inrelease["Date"]))
        for package in _read_packages(suite, inrelease, base, architecture, get):
            known = newest.get(package.name)
            # The same version in two suites: the first, because it stays on mirrors the longest.
            if known is None or known.version < package.version:
                newest[package.name] = package
    return Index(date=f"{max(dates):%Y-%m-%dT%H:%M:%SZ}", packages=newest)


def _read_release(suite: Suite, data: bytes, keys: list[Cert], now: datetime) -> Deb822:
    """Return the signed part of an InRelease."""
    what = f"the index of the Debian suite `{suite.name}` was refused"
    hint = "name another mirror: export TORCHKILN_DEBIAN_MIRROR=<URL>"
    try:
        signed = verify(data, store=lambda _: keys).bytes or b""
    except RuntimeError as error:  # all that pysequoia raises; its text ends with a stack trace
        why = f"its OpenPGP signature is bad: {str(error).splitlines()[0]}"
        raise LockError(what, why, hint) from None
    release = Deb822(signed)
    # Without this, a mirror could serve the old suite in place of its security updates.
    if release.get("Codename") != suite.name:
        raise LockError(what, f"it is the index of another suite: {release.get('Codename')}", hint)
    until = release.get("Valid-Until")
    if until is not None and _date(until) < now:
        why = f"it has expired, the mirror or this machine's clock is behind: {until}"
        raise LockError(what, why, hint)
    return release


def _read_packages(
    suite: Suite, release: Deb822, base: str, architecture: str, get: Get
) -> list[Package]:
    """Return the packages of a suite's `main`, from the Packages.xz that its InRelease names."""
    path = f"main/binary-{architecture}/Packages.xz"
    expected = _signed_hash(release, path)
    if not expected:
        what = f"the Debian suite `{suite.name}` has no packages for `{architecture}`"
        raise LockError(what, f"not in its InRelease: {path}")
    by_hash = f"{path.rpartition('/')[0]}/by-hash/SHA256/{expected}"
    # By hash, because a mirror in the middle of an update has new and old files side by side.
    url = f"{base}/{by_hash if release.get('Acquire-By-Hash') == 'yes' else path}"
    data = get(url)
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        what = f"`{path}` of the Debian suite `{suite.name}` is not what InRelease names"
        why = f"expected sha256: {expected}\nactual sha256:   {actual}"
        raise LockError(what, why, "the mirror may be in the middle of an update, try again later")
    stanzas = lzma.decompress(data).decode().split("\n\n")
    return [_package(suite, stanza) for stanza in stanzas if stanza.strip()]


def _signed_hash(release: Deb822, path: str) -> str:
    """Return the sha256 (hex) that an InRelease names for the file at `path`, "" for none."""
    entries = (line.split() for line in release.get("SHA256", "").splitlines())
    hashes = {entry[2]: entry[0] for entry in entries if len(entry) == 3}  # noqa: PLR2004
    try:
        return parse_sha256(hashes[path]) if path in hashes else ""
    except ValueError as error:
        what = f"an InRelease names no file that can be checked: {path}"
        raise LockError(what, str(error)) from None


def _package(suite: Suite, stanza: str) -> Package:
    # A release holds 60 000 stanzas and a base needs a hundred: no parser for the others.
    fields = dict(_NAME_AND_VERSION.findall(stanza))
    return Package(
        name=fields["Package"],
        version=Version(fields["Version"]),
        archive=suite.archive,
        stanza=stanza.strip("\n"),
    )


_NAME_AND_VERSION: Final = re.compile(r"^(Package|Version): (\S+)$", re.MULTILINE)


def _date(text: str) -> datetime:
    """Parse the RFC 2822 date of an InRelease, which names no zone but UTC."""
    return parsedate_to_datetime(text.replace(" UTC", " +0000")).astimezone(timezone.utc)
