from __future__ import annotations

import pytest

from torchkiln.proof.part import own_places, purl


@pytest.mark.parametrize(
    ("kind", "name", "version", "qualifiers"),
    [
        ("pypi", "torch", "2.13.0+cpu", {}),
        ("deb/debian", "libstdc++6", "12.2.0-14+deb12u1", {"arch": "amd64"}),
        ("deb/debian", "login", "1:4.13+dfsg1-1~deb12", {"distro": "debian-12", "arch": "amd64"}),
    ],
)
def test_a_package_url_is_the_one_that_its_standard_writes(
    kind: str, name: str, version: str, qualifiers: dict[str, str]
) -> None:
    standard = pytest.importorskip("packageurl")

    text = purl(kind, name, version, **qualifiers)

    parsed = standard.PackageURL.from_string(text)
    assert text == parsed.to_string()
    assert (name, version, qualifiers) == (parsed.name, parsed.version, parsed.qualifiers)


def test_a_folder_of_one_owner_stands_for_what_is_in_it() -> None:
    found = own_places(
        {"torch": ["/site/torch/a", "/site/torch/lib/b"], "six": ["/site/six.py"]}, []
    )

    assert {"torch": ["/site/torch"], "six": ["/site/six.py"]} == found


def test_a_folder_of_two_owners_stands_for_neither() -> None:
    found = own_places({"blas": ["/nvidia/blas/a"], "nccl": ["/nvidia/nccl/b"]}, [])

    assert {"blas": ["/nvidia/blas"], "nccl": ["/nvidia/nccl"]} == found


def test_a_file_of_two_owners_is_told_of_both() -> None:
    found = own_places({"one": ["/n/__init__.py", "/n/a/x"], "two": ["/n/__init__.py"]}, [])

    assert {"one": ["/n/__init__.py", "/n/a"], "two": ["/n/__init__.py"]} == found


def test_a_shared_folder_stands_for_nobody_even_with_one_owner() -> None:
    found = own_places({"perl": ["/usr/bin/perl"]}, ["/usr/bin"])

    assert {"perl": ["/usr/bin/perl"]} == found
