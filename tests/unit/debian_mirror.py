"""A small signed Debian archive: path to bytes, as a mirror serves it."""

from __future__ import annotations

import hashlib
import lzma
from functools import cache

from pysequoia import SignatureMode, Tsk, sign

DATE = "Sat, 11 Jul 2026 10:16:37 UTC"


@cache
def key(owner: str = "archive") -> Tsk:
    """Return the signing key of `owner`, a new one in each test run."""
    return Tsk.generate(f"{owner} <{owner}@example.org>")


def stanza(name: str, version: str = "1", **fields: str) -> str:
    """Return an entry of Packages; a field's underscores are dashes."""
    given = {name.replace("_", "-"): value for name, value in fields.items()}
    values = {
        "Package": name,
        "Version": version,
        "Priority": "optional",
        "Architecture": "amd64",
        "Filename": f"pool/main/{name}_{version}_amd64.deb",
        "Size": "7",
        "SHA256": hashlib.sha256(f"{name} {version}".encode()).hexdigest(),
        **given,
    }
    return "".join(f"{field}: {value}\n" for field, value in values.items())


def suite(
    path: str,
    *stanzas: str,
    signer: Tsk | None = None,
    date: str = DATE,
    by_hash: bool = True,
    **fields: str,
) -> dict[str, bytes]:
    """Return the files of the suite at `path` (`debian/dists/bookworm`)."""
    packages = lzma.compress("\n".join(stanzas).encode())
    sha256 = hashlib.sha256(packages).hexdigest()
    values = {
        "Codename": path.rpartition("/")[2],
        "Date": date,
        **{name.replace("_", "-"): value for name, value in fields.items()},
        **({"Acquire-By-Hash": "yes"} if by_hash else {}),
    }
    text = "".join(f"{name}: {value}\n" for name, value in values.items())
    text += f"SHA256:\n {sha256} {len(packages)} main/binary-amd64/Packages.xz\n"
    signed = sign((signer or key()).signer(), text.encode(), mode=SignatureMode.CLEAR)
    folder = f"{path}/main/binary-amd64"
    where = f"{folder}/by-hash/SHA256/{sha256}" if by_hash else f"{folder}/Packages.xz"
    return {f"{path}/InRelease": signed, where: packages}


def archive(*stanzas: str, security: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Return a whole archive of bookworm with `stanzas` in its main suite."""
    return {
        **suite("debian/dists/bookworm", *stanzas),
        **suite("debian/dists/bookworm-updates"),
        **suite("debian-security/dists/bookworm-security", *security),
    }


BASE = (
    stanza("base-files", Essential="yes", Priority="required"),
    stanza("apt", Priority="important"),
    stanza("usr-is-merged"),
)
"""What every base needs."""
