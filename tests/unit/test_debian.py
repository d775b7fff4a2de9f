from __future__ import annotations

from datetime import datetime, timezone
from functools import cache
from typing import TYPE_CHECKING

import pytest
from debian_mirror import archive, key, stanza, suite

from torchkiln import debian
from torchkiln.debian import Index, read_index, read_keys
from torchkiln.errors import LockError

if TYPE_CHECKING:
    from pysequoia import Cert

MIRRORS = {"debian": "http://mirror/debian/", "debian-security": "http://mirror/debian-security"}
NOW = datetime(2026, 7, 12, tzinfo=timezone.utc)
MAIN = "debian/dists/bookworm"
SECURITY = "debian-security/dists/bookworm-security"


@cache
def public() -> Cert:
    return key().extract_certificate()


def read(files: dict[str, bytes], architecture: str = "amd64") -> Index:
    return read_index(
        "bookworm",
        architecture,
        mirrors=MIRRORS,
        get=lambda url: files[url.removeprefix("http://mirror/")],
        keys=[public()],
        now=NOW,
    )


def refusal(files: dict[str, bytes]) -> str:
    with pytest.raises(LockError) as caught:
        read(files)
    return str(caught.value)


def test_the_newest_version_of_all_suites_counts() -> None:
    index = read(archive(stanza("apt", "1.9"), security=(stanza("apt", "1.10"),)))

    apt = index.packages["apt"]
    assert ("1.10", "debian-security") == (str(apt.version), apt.archive)


def test_of_equal_versions_the_one_of_the_main_archive_counts() -> None:
    index = read(archive(stanza("apt"), security=(stanza("apt"),)))

    assert index.packages["apt"].archive == "debian"


def test_the_date_is_that_of_the_newest_suite() -> None:
    files = archive() | suite(SECURITY, date="Sat, 11 Jul 2026 22:00:05 UTC")

    assert read(files).date == "2026-07-11T22:00:05Z"


def test_packages_are_read_by_name_where_the_suite_has_no_hash_names() -> None:
    files = archive() | suite(MAIN, stanza("apt"), by_hash=False)

    assert "apt" in read(files).packages


def test_an_index_signed_by_an_unknown_key_is_refused() -> None:
    text = refusal(archive() | suite(MAIN, stanza("apt"), signer=key("stranger")))

    assert "the index of the Debian suite `bookworm` was refused" in text
    assert "its OpenPGP signature is bad" in text
    assert "backtrace" not in text


def test_an_index_changed_after_it_was_signed_is_refused() -> None:
    files = archive()
    files[f"{MAIN}/InRelease"] = files[f"{MAIN}/InRelease"].replace(b"Codename", b"codename")

    assert "its OpenPGP signature is bad" in refusal(files)


def test_an_index_without_a_signature_is_refused() -> None:
    files = archive() | {f"{MAIN}/InRelease": b"Codename: bookworm\n"}

    assert "its OpenPGP signature is bad" in refusal(files)


def test_nothing_outside_the_signature_is_read() -> None:
    files = archive()
    signed = files[f"{MAIN}/InRelease"]
    files[f"{MAIN}/InRelease"] = (
        b"Date: Sun, 12 Jul 2026 00:00:00 UTC\n\n" + signed + b"\nDate: x\n"
    )

    assert read(files).date == "2026-07-11T10:16:37Z"


def test_a_suite_cannot_stand_in_for_another() -> None:
    """A mirror could hide security updates by serving the main suite in their place."""
    files = archive()
    files[f"{SECURITY}/InRelease"] = files[f"{MAIN}/InRelease"]

    assert "it is the index of another suite: bookworm" in refusal(files)


def test_an_expired_index_is_refused() -> None:
    files = archive() | suite(SECURITY, Valid_Until="Sat, 11 Jul 2026 23:59:59 UTC")

    assert "it has expired" in refusal(files)


def test_an_index_that_has_not_expired_is_taken() -> None:
    files = archive() | suite(SECURITY, Valid_Until="Sun, 12 Jul 2026 00:00:01 UTC")

    assert read(files).date == "2026-07-11T10:16:37Z"


def test_packages_that_are_not_the_signed_ones_are_refused() -> None:
    files = archive(stanza("apt"))
    path = next(name for name in files if name.startswith(f"{MAIN}/main"))
    expected = path.rpartition("/")[2]
    files[path] += b"\0"

    text = refusal(files)

    assert "`main/binary-amd64/Packages.xz` of the Debian suite `bookworm`" in text
    assert f"expected sha256: {expected}" in text


def test_an_architecture_that_the_suite_has_not_is_named() -> None:
    with pytest.raises(LockError, match="`bookworm` has no packages for `arm64`"):
        read(archive(), "arm64")


def test_a_field_is_unfolded_and_empty_where_there_is_none() -> None:
    package = read(archive(stanza("apt", Depends="a,\n b"))).packages["apt"]

    assert ["a,\n b", ""] == [package.field("Depends"), package.field("Breaks")]


def test_the_committed_keys_are_those_that_the_module_names() -> None:
    """Debian publishes the fingerprints; a key slipped into the file must not go unseen."""
    keys = [cert.fingerprint.upper() for cert in read_keys("bookworm")]

    assert all(fingerprint in (debian.__doc__ or "") for fingerprint in keys)
    assert len(keys) == 3
    assert "PRIVATE" not in (debian.KEYS / "debian-bookworm.asc").read_text()


def test_a_release_without_keys_is_refused_with_those_that_have() -> None:
    with pytest.raises(LockError, match=r"`potato`(.|\n)*hint: .*: bookworm"):
        read_keys("potato")
