"""The base: locked Debian packages, whole, and a system that others can build on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from torchkiln import debian_rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from expected import Expected

    from torchkiln.backend import Host
    from torchkiln.listing import ImageListing


def test_dpkg_has_the_locked_packages(image: ImageListing, expected: Expected) -> None:
    assert debian_rules.package_faults(image, expected.base_lock) == []


@pytest.mark.parametrize(
    "rule",
    [debian_rules.excluded_files, debian_rules.missing_files, debian_rules.unowned_files],
    ids=lambda rule: rule.__name__,
)
def test_files_are_those_of_the_packages(
    image: ImageListing, rule: Callable[[ImageListing], list[str]]
) -> None:
    assert rule(image) == []


def test_packages_of_the_catalog_are_installed(host: Host, expected: Expected) -> None:
    locked = {deb.name: deb.version for deb in expected.base_lock.debs}

    for name in expected.base.packages:
        assert host.package(name).is_installed
        assert host.package(name).version == locked[name]


def test_dpkg_finds_nothing_half_installed(host: Host) -> None:
    assert host.check_output("dpkg --audit") == ""


def test_dpkg_finds_no_changed_file(host: Host) -> None:
    """`missing` are the files that dpkg was told to leave out; a rule above knows which."""
    lines = host.run("dpkg --verify").stdout.splitlines()

    assert [line for line in lines if not line.startswith("missing ")] == []


def test_release_is_the_locked_one(host: Host, expected: Expected) -> None:
    assert (host.system_info.distribution, host.system_info.codename) == (
        "debian",
        expected.base.release,
    )


def test_apt_works_for_who_builds_on_it(host: Host) -> None:
    done = host.run("apt-get -s install netbase")

    assert done.rc == 0, done.stderr
    assert "0 upgraded, 0 newly installed, 0 to remove" in done.stdout


def test_apt_knows_the_release_and_its_security_updates(host: Host, expected: Expected) -> None:
    lines = host.file("/etc/apt/sources.list").content_string.splitlines()

    suites = {line.split()[2] for line in lines if line.startswith("deb ")}
    release = expected.base.release
    assert suites == {release, f"{release}-security", f"{release}-updates"}
