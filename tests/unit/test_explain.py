from __future__ import annotations

from typing import Any

import pytest

from torchkiln.errors import ArchiveError, CatalogError
from torchkiln.proof.explain import MAX_CHAINS, explain
from torchkiln.proof.reports import explained

SITE = "/opt/venv/lib/python3.11/site-packages"


def component(ref: str, *places: str, asked: str = "", inside: str = "") -> dict[str, Any]:
    name = ref.rpartition(":")[2]
    properties = {"layer": "wheels", "size": "1000000", "unpacked": "4000000"}
    pairs = [*properties.items(), *([("asked", asked)] if asked else [])]
    found: dict[str, Any] = {
        "bom-ref": ref,
        "name": name,
        "version": "1.0",
        "purl": f"pkg:pypi/{name}@1.0",
        "hashes": [{"alg": "SHA-256", "content": "ab" * 32}],
        "licenses": [{"expression": "MIT"}],
        "evidence": {"occurrences": [{"location": place} for place in places]},
        "properties": [{"name": f"io.torchkiln:{key}", "value": text} for key, text in pairs],
    }
    if inside:
        place = f"{places[0]}/_vendor/{inside}-2.dist-info"
        found["components"] = [
            {
                "bom-ref": f"{ref}#{inside}",
                "name": inside,
                "version": "2",
                "purl": f"pkg:pypi/{inside}@2",
                "evidence": {"occurrences": [{"location": place}]},
            }
        ]
    return found


def sbom(needs: dict[str, list[str]], *components: dict[str, Any]) -> dict[str, Any]:
    folders = [{"name": "io.torchkiln:search", "value": one} for one in (SITE, "/usr/bin")]
    return {
        "metadata": {"component": {"bom-ref": "image", "name": "image", "properties": folders}},
        "components": [*components, {"type": "operating-system", "name": "debian"}],
        "dependencies": [{"ref": ref, "dependsOn": refs} for ref, refs in needs.items()],
    }


IMAGE = sbom(
    {
        "image": ["torch", "pillow", "deb:tzdata", "perl-base"],
        "torch": ["numpy", "setuptools", "triton"],
        "triton": ["torch"],
        "pillow": ["numpy"],
        "numpy": ["tzdata"],
    },
    component("torch", f"{SITE}/torch", asked="variants.cpu.torch: torch==1"),
    component("triton", f"{SITE}/triton"),
    component("pillow", f"{SITE}/PIL", asked="variants.cpu.packages: pillow"),
    component("numpy", f"{SITE}/numpy", f"{SITE}/nump.py"),
    component("setuptools", f"{SITE}/setuptools", inside="zipp"),
    component("tzdata", f"{SITE}/tzdata"),
    component("deb:tzdata", "/usr/share/zoneinfo", asked="Debian: required"),
    component("perl-base", "/usr/bin/perl", asked="Debian: essential"),
)


@pytest.mark.parametrize(
    ("name", "chains"),
    [
        ("torch", [["torch"]]),
        ("numpy", [["pillow", "numpy"], ["torch", "numpy"]]),
        ("zipp", [["torch", "setuptools", "zipp"]]),
        ("triton", [["torch", "triton"]]),
    ],
)
def test_chains_lead_from_what_is_asked_for_to_the_package(
    name: str, chains: list[list[str]]
) -> None:
    """That torch and triton need each other is no reason for either."""
    (package,) = explain(IMAGE, name).packages

    assert chains == package.chains


def test_each_chain_says_who_asks_for_its_first() -> None:
    (package,) = explain(IMAGE, "numpy").packages

    assert {
        "pillow": ["variants.cpu.packages: pillow"],
        "torch": ["variants.cpu.torch: torch==1"],
    } == package.asked
    assert ["pillow", "torch"] == package.needed_by


def test_no_more_chains_than_a_person_reads() -> None:
    users = [f"user{number}" for number in range(9)]
    needs = {"image": users, **{user: ["libc"] for user in users}}
    image = sbom(needs, component("libc", "/lib"), *(component(one, f"/{one}") for one in users))

    (package,) = explain(image, "libc").packages

    assert (MAX_CHAINS, 9) == (len(package.chains), len(package.needed_by))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PIL", "pillow"),
        ("PIL.Image", "pillow"),
        ("nump", "numpy"),
        ("perl", "perl-base"),
        ("/bin/perl", "perl-base"),
        ("Torch", "torch"),
        (f"{SITE}/torch/lib/libtorch.so", "torch"),
        (f"{SITE}/__pycache__/nump.cpython-311.pyc", "numpy"),
        (f"{SITE}/setuptools/_vendor/zipp-2.dist-info/METADATA", "zipp"),
        ("/usr/share", "tzdata"),
    ],
)
def test_a_package_is_found_by_import_command_and_path(name: str, expected: str) -> None:
    assert [expected] == [package.name for package in explain(IMAGE, name).packages]


def test_two_packages_of_one_name_are_both_explained() -> None:
    found = explain(IMAGE, "tzdata")

    assert [[["torch", "numpy", "tzdata"]], [["tzdata"]]] == [one.chains for one in found.packages]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("numppy", "did you mean `numpy`?"), ("/usr/bin/per", "did you mean `/usr/bin/perl`?")],
)
def test_an_unknown_name_is_an_error_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(CatalogError, match=f"`{name}`") as caught:
        explain(IMAGE, name)

    assert hint in str(caught.value)


def test_a_folder_that_many_share_names_them_and_explains_none() -> None:
    parts = [component(f"nvidia-{one}", f"{SITE}/nvidia/{one}") for one in "abcdef"]
    image = sbom({"image": [one["bom-ref"] for one in parts]}, *parts)

    with pytest.raises(CatalogError, match="6 packages of the image share `nvidia`") as caught:
        explain(image, "nvidia")

    assert "nvidia-a, nvidia-b" in str(caught.value)
    assert ["nvidia-c"] == [one.name for one in explain(image, "nvidia.c").packages]


@pytest.mark.parametrize("other", [{}, {"metadata": {}}, IMAGE | {"components": [{"purl": ""}]}])
def test_an_sbom_of_another_tool_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ArchiveError, match="no SBOM that Torchkiln made"):
        explain(other, "numpy")


def test_people_read_the_way_the_licence_the_size_and_the_layer() -> None:
    text = explained(explain(IMAGE, "zipp"))

    assert "torch > setuptools > zipp" in text
    text = explained(explain(IMAGE, "numpy"))
    assert "licence    MIT" in text
    assert "1.0 MB, 4.0 MB in the image" in text
    assert "layer      wheels" in text
