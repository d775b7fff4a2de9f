from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from torchkiln.errors import FetchError
from torchkiln.snapshot import snapshots

if TYPE_CHECKING:
    from pathlib import Path

DATE = "2026-11-22T02:09:05Z"
NEEDS_APT = pytest.mark.skipif(shutil.which("apt-config") is None, reason="no apt-config")


def apt(tmp_path: Path, *lines: str) -> dict[str, str]:
    """Return an environment in which apt reads `lines` after its own configuration."""
    path = tmp_path / "apt.conf"
    path.write_text("\n".join(lines))
    return {"PATH": os.environ["PATH"], "APT_CONFIG": str(path)}


def test_a_setting_has_the_date_of_the_lock_and_the_day_after_in_the_place_of_apts_word() -> None:
    """An archive takes its snapshot hours after an index is signed, and may lack it at its date."""
    found = snapshots(
        {"TORCHKILN_DEBIAN_SNAPSHOT": "https://dated.example/archive/debian/@SNAPSHOTID@/"}, DATE
    )

    place = "https://dated.example/archive"
    assert {
        "debian": (f"{place}/debian/20261122T020905Z", f"{place}/debian/20261123T020905Z"),
        "debian-security": (
            f"{place}/debian-security/20261122T020905Z",
            f"{place}/debian-security/20261123T020905Z",
        ),
    } == found


def test_a_setting_without_apts_word_is_one_archive() -> None:
    found = snapshots({"TORCHKILN_DEBIAN_SNAPSHOT": "file:///srv/2026-11-22/debian"}, DATE)

    assert {
        "debian": ("file:///srv/2026-11-22/debian",),
        "debian-security": ("file:///srv/2026-11-22/debian-security",),
    } == found


def test_security_lies_beside_an_archive_of_another_name() -> None:
    found = snapshots({"TORCHKILN_DEBIAN_SNAPSHOT": "http://aptly.example/bookworm"}, DATE)

    assert ("http://aptly.example/debian-security",) == found["debian-security"]


def test_a_setting_that_is_no_url_is_refused() -> None:
    with pytest.raises(FetchError, match="TORCHKILN_DEBIAN_SNAPSHOT"):
        snapshots({"TORCHKILN_DEBIAN_SNAPSHOT": "dated.example/debian"}, DATE)


@NEEDS_APT
def test_what_apt_is_configured_with_is_used(tmp_path: Path) -> None:
    environ = apt(
        tmp_path,
        'Acquire::Snapshots::URI::Origin::Debian "http://apt.example/debian/@SNAPSHOTID@/";',
        "Acquire::Snapshots::URI::Override::Label::Debian-Security"
        ' "http://sec.example/@SNAPSHOTID@/";',
    )

    found = snapshots(environ, DATE)

    assert "http://apt.example/debian/20261122T020905Z" == found["debian"][0]
    assert "http://sec.example/20261122T020905Z" == found["debian-security"][0]


@NEEDS_APT
def test_a_setting_comes_before_apt(tmp_path: Path) -> None:
    environ = apt(
        tmp_path,
        'Acquire::Snapshots::URI::Origin::Debian "http://apt.example/debian/@SNAPSHOTID@/";',
        "Acquire::Snapshots::URI::Override::Label::Debian-Security"
        ' "http://sec.example/@SNAPSHOTID@/";',
    )
    environ["TORCHKILN_DEBIAN_SNAPSHOT"] = "http://set.example/debian"

    found = snapshots(environ, DATE)

    assert {
        "debian": ("http://set.example/debian",),
        "debian-security": ("http://set.example/debian-security",),
    } == found


@NEEDS_APT
@pytest.mark.parametrize("value", ["no", "http://apt.example/debian", ""])
def test_apts_word_for_no_archive_and_what_has_no_date_are_none(tmp_path: Path, value: str) -> None:
    environ = apt(tmp_path, f'Acquire::Snapshots::URI::Override::Origin::Debian "{value}";')

    assert {} == snapshots(environ, DATE)


def test_a_machine_without_apt_has_none(tmp_path: Path) -> None:
    assert {} == snapshots({"PATH": str(tmp_path)}, DATE)
