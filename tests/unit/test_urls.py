from __future__ import annotations

from pathlib import Path

import pytest

from torchkiln import urls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:secret@i.example/s: failed", "at https://****@i.example/s: failed"),
        ("https://token@i.example", "https://****@i.example"),
        ("https://me:p@ss@i.example/", "https://****@i.example/"),
        ("https://i.example/a@b", "https://i.example/a@b"),
    ],
)
def test_credentials_are_not_shown(text: str, shown: str) -> None:
    assert shown == urls.redact(text)


def test_credentials_are_decoded() -> None:
    assert "me:p@ss" == urls.userinfo("https://me:p%40ss@i.example/")


def test_what_goes_to_a_server_has_no_credentials_and_no_fragment() -> None:
    url = "https://me:x@i.example:8443/a%2Bb?q=1#sha256=0"

    assert "https://i.example:8443/a%2Bb?q=1" == urls.plain(url)


def test_credentials_belong_to_scheme_host_and_port() -> None:
    assert ("https", "i.example:8443") == urls.origin("https://me:x@I.example:8443/a")


def test_path_of_a_file_url_is_decoded() -> None:
    assert Path("/a b/t+cpu.whl") == urls.local_path("file:///a%20b/t%2Bcpu.whl")
