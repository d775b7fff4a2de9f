from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from pip._internal.models.index import PyPI

from torchkiln import pipconf
from torchkiln.errors import FetchError

if TYPE_CHECKING:
    from pathlib import Path


def environ(tmp_path: Path, conf: str = "", **settings: str) -> dict[str, str]:
    """Return an environment in which pip reads nothing but `conf` and `settings`."""
    path = tmp_path / "pip.conf"
    path.write_text(conf, encoding="utf-8")
    # For pip, os.devnull means no file at all; with any other the user's own are read too.
    file = str(path) if conf else os.devnull
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_CONFIG_FILE": file, **settings}


def test_defaults_are_those_of_pip(tmp_path: Path) -> None:
    config = pipconf.read(environ(tmp_path))

    assert pipconf.PipConfig(index_url=PyPI.simple_url) == config


def test_environment_beats_configuration_file(tmp_path: Path) -> None:
    conf = "[global]\nindex-url = https://file.example/simple\nretries = 7\n"

    config = pipconf.read(environ(tmp_path, conf, PIP_INDEX_URL="https://env.example/simple"))

    assert ("https://env.example/simple", 7) == (config.index_url, config.retries)


def test_section_of_a_command_beats_global_and_other_commands_do_not_count(tmp_path: Path) -> None:
    conf = (
        "[list]\ntimeout = 1\n[install]\ntimeout = 4\n[download]\ntimeout = 3\nretries = 9\n"
        "[global]\ntimeout = 2\nindex-url = https://file.example/simple\n"
    )

    config = pipconf.read(environ(tmp_path, conf))

    assert (4.0, 9) == (config.timeout, config.retries)


def test_many_values_are_separated_by_any_space(tmp_path: Path) -> None:
    conf = "[global]\nextra-index-url =\n  https://a.example/s\n  https://b.example/s\n"
    settings = {"PIP_FIND_LINKS": "/one /two", "PIP_TRUSTED_HOST": "a.example b.example:8443"}

    config = pipconf.read(environ(tmp_path, conf, **settings))

    assert ("https://a.example/s", "https://b.example/s") == config.extra_index_urls
    assert ("/one", "/two") == config.find_links
    assert ("a.example", "b.example:8443") == config.trusted_hosts


def test_all_that_concerns_connections_is_read(tmp_path: Path) -> None:
    settings = {
        "PIP_CERT": "/ca.pem",
        "PIP_CLIENT_CERT": "/me.pem",
        "PIP_PROXY": "http://proxy.example:3128",
        "PIP_DEFAULT_TIMEOUT": "60",
        "PIP_NO_INDEX": "true",
        "PIP_INDEX_URL": "https://env.example/simple",
    }

    config = pipconf.read(environ(tmp_path, **settings))

    expected = pipconf.PipConfig(
        index_url="https://env.example/simple",
        no_index=True,
        cert="/ca.pem",
        client_cert="/me.pem",
        proxy="http://proxy.example:3128",
        timeout=60.0,
    )
    assert expected == config


def test_empty_variable_does_not_hide_the_file(tmp_path: Path) -> None:
    conf = "[global]\nindex-url = https://file.example/simple\n"

    config = pipconf.read(environ(tmp_path, conf, PIP_INDEX_URL=""))

    assert "https://file.example/simple" == config.index_url


def test_broken_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        pipconf.read(environ(tmp_path, "no section = here\n"))

    assert str(tmp_path / "pip.conf") in caught.value.why


@pytest.mark.parametrize("section", ["global", "install"])
def test_bad_number_is_an_error_with_its_value(tmp_path: Path, section: str) -> None:
    """What is wrong for all commands pip refuses itself; the rest it leaves to us."""
    conf = f"[{section}]\ntimeout = soon\nindex-url = https://file.example/simple\n"

    with pytest.raises(FetchError) as caught:
        pipconf.read(environ(tmp_path, conf))

    assert "'soon'" in caught.value.why


def test_what_says_where_packages_come_from_is_taken_over_and_nothing_else(tmp_path: Path) -> None:
    conf = (
        "[global]\nindex-url = https://file.example/simple\nproxy = http://proxy.example:3128\n"
        "[install]\ntarget = /elsewhere\ndry-run = true\n"
    )
    settings = {"PIP_FIND_LINKS": "/one /two", "PIP_CERT": "/ca.pem", "PIP_ROOT": "/elsewhere"}

    found = pipconf.only_fetching(environ(tmp_path, conf, **settings))

    assert {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "https://file.example/simple",
        "PIP_PROXY": "http://proxy.example:3128",
        "PIP_FIND_LINKS": "/one /two",
        "PIP_CERT": "/ca.pem",
    } == {name: value for name, value in found.items() if name.startswith("PIP_")}
    assert str(tmp_path) == found["HOME"]
    assert pipconf.read(found) == pipconf.read(environ(tmp_path, conf, **settings))


def test_a_pip_that_is_told_to_be_quiet_still_tells_its_settings(tmp_path: Path) -> None:
    settings = {"PIP_QUIET": "2", "PIP_INDEX_URL": "https://env.example/simple"}

    assert "https://env.example/simple" == pipconf.read(environ(tmp_path, **settings)).index_url
