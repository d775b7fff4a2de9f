import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName
from packaging.version import Version

from torchkiln import compat
from torchkiln.releases import RELEASES


def torches(cuda: str, *, default: bool = False) -> list[str]:
    """Return the releases that had a build for `cuda`."""
    return [
        release.torch
        for release in RELEASES.values()
        if cuda == release.default_cuda or (cuda in release.cuda and not default)
    ]


def packages(**specifiers: str) -> dict[NormalizedName, SpecifierSet]:
    return {NormalizedName(name): SpecifierSet(text) for name, text in specifiers.items()}


def faulty(torch: str, **specifiers: str) -> list[NormalizedName | None]:
    return [name for name, _ in compat.package_faults(torch, packages(**specifiers))]


def test_the_table_is_in_the_order_of_the_releases() -> None:
    assert sorted(RELEASES, key=Version) == list(RELEASES)


@pytest.mark.parametrize(
    ("cuda", "newest"),
    [
        ("11.7", "2.0.1"),
        ("12.1", "2.4.1"),
        ("12.4", "2.6.0"),
        ("12.6", "2.7.1"),
        ("12.8", "2.10.0"),
        ("13.0", "2.14.1"),
        ("13.2", "2.15.0"),
    ],
)
def test_the_default_index_had_one_cuda_a_release(cuda: str, newest: str) -> None:
    assert newest == torches(cuda, default=True)[-1]


@pytest.mark.parametrize("cuda", ["11.8", "12.9"])
def test_some_cuda_was_never_on_the_default_index(cuda: str) -> None:
    assert [] == torches(cuda, default=True)


@pytest.mark.parametrize(
    ("cuda", "first", "last"),
    [
        ("11.7", "1.13.0", "2.0.1"),
        ("11.8", "2.0.0", "2.7.1"),
        ("12.1", "2.1.0", "2.5.1"),
        ("12.4", "2.4.0", "2.6.0"),
        ("12.6", "2.6.0", "2.14.1"),
        ("12.8", "2.7.0", "2.11.0"),
        ("13.0", "2.9.0", "2.15.0"),
        ("13.2", "2.12.0", "2.15.0"),
    ],
)
def test_each_index_held_a_run_of_releases(cuda: str, first: str, last: str) -> None:
    """The same fact from another source: the extent of each index, as cog records it."""
    between = [one for one in RELEASES if Version(first) <= Version(one) <= Version(last)]

    assert between == torches(cuda)


def test_cuda_12_9_came_and_went() -> None:
    assert ["2.8.0", "2.11.0", "2.12.1"] == torches("12.9")


def test_an_unknown_torch_breaks_no_rule_of_the_table() -> None:
    assert compat.is_newer("2.99.0")
    assert compat.build_fault("2.99.0", "14.0", None) is None
    assert compat.python_fault("2.99.0", "3.20") is None


@pytest.mark.parametrize("specifier", ["<2", "==1.26.4", "<2,>=1.20", "~=1.20", "<1.27", "==1.*"])
def test_numpy_below_2_goes_with_an_old_torch(specifier: str) -> None:
    assert [] == faulty("2.2.2", numpy=specifier)


@pytest.mark.parametrize(
    "specifier", ["", ">=1.20", "<3", "==2.1.0", "~=2.1", "==2.*", "!=2.0", "!=2.*", ">2,<3"]
)
def test_numpy_2_does_not_go_with_an_old_torch(specifier: str) -> None:
    assert ["numpy"] == faulty("2.2.2", numpy=specifier)


def test_numpy_must_be_named_for_an_old_torch() -> None:
    """Torch requires no NumPy, so that a companion would bring in the newest."""
    assert [None] == faulty("2.2.2")


def test_a_new_torch_takes_any_numpy() -> None:
    assert [] == faulty("2.3.0", numpy="")


def test_setuptools_is_held_back_as_long_as_torch_imports_pkg_resources() -> None:
    assert ["setuptools"] == faulty("2.1.2", numpy="<2", setuptools="<=70")
    assert [] == faulty("2.1.2", numpy="<2", setuptools="<70")
    assert [] == faulty("2.2.0", numpy="<2", setuptools="")


@pytest.mark.parametrize("specifier", ["", "<2.1", "==2.0.1", ">=2.0.2", "==2.0.*"])
def test_torchaudio_is_pinned_to_the_one_made_for_an_old_torch(specifier: str) -> None:
    found = faulty("2.0.1", numpy="<2", setuptools="<70", torchaudio=specifier)

    assert ["torchaudio"] == found


@pytest.mark.parametrize("specifier", ["==2.0.2", "==2.0.2+cu117"])
def test_the_pair_may_name_its_build(specifier: str) -> None:
    assert [] == faulty("2.0.1", numpy="<2", setuptools="<70", torchaudio=specifier)


def test_torchaudio_is_free_since_it_needs_no_matching_torch() -> None:
    assert ["torchaudio"] == faulty("2.10.0", torchaudio="")
    assert [] == faulty("2.11.0", torchaudio="")


def test_torchvision_is_pinned_for_every_torch() -> None:
    """Since 0.29.1 it asks for any later torch, whatever its CUDA."""
    assert ["torchvision"] == faulty("2.14.1", torchvision="")
    assert [] == faulty("2.14.1", torchvision="==0.29.1")
