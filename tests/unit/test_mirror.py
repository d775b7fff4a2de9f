from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from torchkiln.errors import FetchError
from torchkiln.mirror import mirrors

if TYPE_CHECKING:
    from pathlib import Path


def write(apt_etc: Path, name: str, text: str) -> None:
    path = apt_etc / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_setting_beats_apt_and_security_lies_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "sources.list", "deb http://apt.example/debian bookworm main\n")
    environ = {"TORCHKILN_DEBIAN_MIRROR": "http://set.example/pub/debian/"}

    found = mirrors(environ, tmp_path)

    expected = {
        "debian": "http://set.example/pub/debian",
        "debian-security": "http://set.example/pub/debian-security",
    }
    assert expected == found


def test_security_mirror_can_be_set_alone(tmp_path: Path) -> None:
    write(tmp_path, "sources.list", "deb http://apt.example/debian bookworm main\n")
    environ = {"TORCHKILN_DEBIAN_SECURITY_MIRROR": "http://sec.example/s"}

    found = mirrors(environ, tmp_path)

    assert {
        "debian": "http://apt.example/debian",
        "debian-security": "http://sec.example/s",
    } == found


def test_one_line_format_is_read_with_options_comments_and_old_security_suites(
    tmp_path: Path,
) -> None:
    text = (
        "# deb http://off.example/debian bookworm main\n"
        "deb-src http://src.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian/ buster main contrib # mine\n"
        "deb http://s.example/debian-security buster/updates main\n"
    )
    write(tmp_path, "sources.list", text)

    found = mirrors({}, tmp_path)

    expected = {
        "debian": "http://a.example/debian",
        "debian-security": "http://s.example/debian-security",
    }
    assert expected == found


def test_deb822_format_is_read_without_disabled_stanzas(tmp_path: Path) -> None:
    text = (
        "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\n"
        "Components: main\n\n"
        "Types: deb deb-src\n# a comment\nURIs: http://a.example/debian\n"
        "Suites: bookworm bookworm-updates\nComponents: main\n\n"
        "Types: deb\nURIs: http://s.example/debian-security\nSuites: bookworm-security\n"
        "Components: main\n"
    )
    write(tmp_path, "sources.list.d/debian.sources", text)

    found = mirrors({}, tmp_path)

    expected = {
        "debian": "http://a.example/debian",
        "debian-security": "http://s.example/debian-security",
    }
    assert expected == found


@pytest.mark.parametrize(
    "line",
    [
        "deb http://other.example/ubuntu jammy main",
        "deb http://other.example/linux/debian bookworm stable",
        "deb http://other.example/apt cloud-sdk-bookworm main",
        "deb cdrom:[Debian]/ bookworm main",
        "deb http://other.example/debian bookworm non-free",
    ],
)
def test_what_is_no_main_of_debian_is_no_mirror(tmp_path: Path, line: str) -> None:
    write(tmp_path, "sources.list.d/other.list", line)

    with pytest.raises(FetchError) as caught:
        mirrors({}, tmp_path)

    assert "TORCHKILN_DEBIAN_MIRROR" in caught.value.hint


def test_files_that_apt_ignores_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, "sources.list.d/a.list.off", "deb http://off.example/debian sid main")
    stanza = "Types: deb\nURIs: http://off.example/debian\nSuites: sid\nComponents: main\n"
    write(tmp_path, "sources.list.d/b.sources.off", stanza)

    with pytest.raises(FetchError):
        mirrors({}, tmp_path)


def test_setting_that_is_no_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="TORCHKILN_DEBIAN_MIRROR is no"):
        mirrors({"TORCHKILN_DEBIAN_MIRROR": "mirror.example/debian"}, tmp_path)
