"""Which companion goes beside which torch, by its version and by what it says of its build."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from torchkiln import catalog
from torchkiln.companions import COMPANIONS, misfit, requirement
from torchkiln.releases import RELEASES

CATALOG = catalog.load(Path(__file__).parents[2] / "images/variants.yaml")


def package(folder: Path, name: str, said: str) -> Path:
    """Write what a companion says of itself."""
    (folder / name).mkdir()
    (folder / name / "version.py").write_text(
        f"__version__ = '{said}'\ngit_version = 'a+cu118'\nfrom {name}.extension import cuda\n"
    )
    return folder


@pytest.mark.parametrize(
    ("torch", "cuda", "name", "right"),
    [
        # The PyTorch index has torchvision and torchaudio under torch's own label.
        ("2.13.0+cpu", None, "torchvision", "torchvision==0.28.0+cpu"),
        ("2.13.0+cpu", None, "torchaudio", "torchaudio==2.11.0+cpu"),
        ("2.8.0+cu129", "12.9", "torchvision", "torchvision==0.23.0+cu129"),
        ("2.0.1", "11.7", "torchaudio", "torchaudio==2.0.2"),
        ("2.15.0", "13.2", "torchaudio", "torchaudio==2.11.1"),
        # 0.12 and 0.13 are builds for CPUs, 0.14 is the first that stays one for CUDA 13.
        ("2.13.0+cpu", None, "torchcodec", "torchcodec>=0.12,<0.14"),
        ("2.12.0+cu126", "12.6", "torchcodec", "torchcodec>=0.12,<0.14"),
        ("2.14.1", "13.0", "torchcodec", "torchcodec>=0.14,<0.18"),
        ("2.10.0", "12.8", "torchcodec", "torchcodec>=0.10,<0.11"),
        ("2.0.1", "11.7", "torchcodec", None),
        ("2.3.1", "12.1", "torchtext", "torchtext>=0.18,<0.19"),
        ("2.4.1", "12.1", "torchtext", None),
        ("2.99.0", "14.0", "torchvision", ""),
    ],
)
def test_what_goes_with_a_build_of_torch(
    torch: str, cuda: str | None, name: str, right: str | None
) -> None:
    assert right == requirement(name, torch, cuda)


@pytest.mark.parametrize(
    ("torchcodec", "torch"),
    [
        ("0.0.3", "2.4"),
        ("0.1.1", "2.5"),
        ("0.2.1", "2.6"),
        ("0.3.0", "2.7"),
        ("0.4.0", "2.7"),
        ("0.5", "2.7"),
        ("0.6.0", "2.8"),
        ("0.7.0", "2.8"),
        ("0.8.1", "2.9"),
        ("0.9.1", "2.9"),
        ("0.10.0", "2.10"),
        ("0.11.1", "2.11"),
    ],
)
def test_torchcodec_is_for_the_torch_that_its_readme_names(
    tmp_path: Path, torchcodec: str, torch: str
) -> None:
    """Copied from the README in the wheel of 0.17.0; from 0.12 on it says `>=2.11`."""
    right = [
        one
        for one in RELEASES
        if not misfit("torchcodec", torchcodec, tmp_path, one, RELEASES[one].default_cuda)
    ]

    assert [one for one in RELEASES if one.rpartition(".")[0] == torch] == right


@pytest.mark.parametrize(
    ("one", "said", "torch", "why"),
    [
        ("torchvision 0.28.0", "0.28.0+cu130", "2.13.0+cpu, ", "for CUDA 13.0"),
        ("torchvision 0.28.0", "0.28.0+cu130", "2.13.0, 13.0", ""),
        ("torchvision 0.28.0+cpu", "0.28.0+cpu", "2.13.0+cpu, ", ""),
        ("torchvision 0.28.0+cpu", "0.28.0+cpu", "2.13.0, 13.0", "for CPUs"),
        ("torchvision 0.27.1", "0.27.1+cu130", "2.13.0, 13.0", "for another torch"),
        # On the stable ABI from 0.29.1 on.
        ("torchvision 0.29.2", "0.29.2+cu132", "2.14.1, 13.0", ""),
        ("torchvision 0.29.2", "0.29.2+cu132", "2.13.0, 13.0", "for another torch"),
        # The minor version of CUDA counts before 0.16.
        ("torchvision 0.22.1", "0.22.1+cu126", "2.7.1+cu128, 12.8", ""),
        ("torchvision 0.22.1", "0.22.1+cu126", "2.7.1+cu118, 11.8", "for CUDA 12.6"),
        ("torchvision 0.15.2", "0.15.2+cu117", "2.0.1+cu118, 11.8", "for CUDA 11.7"),
        # It counts for torchaudio before 2.11.1.
        ("torchaudio 2.11.0", "2.11.0+cu130", "2.15.0, 13.2", "for CUDA 13.0"),
        ("torchaudio 2.11.1", "2.11.1+cu132", "2.14.1, 13.0", ""),
        ("torchaudio 2.11.0", "2.11.0+cu130", "2.13.0+cpu, ", "for CUDA 13.0"),
        ("torchaudio 2.11.1", "2.11.1+cu132", "2.0.1, 11.7", "for another torch"),
        ("torchcodec 0.17.0", "0.17.0+cu130", "2.13.0+cpu, ", "for CUDA 13.0"),
        ("torchcodec 0.17.0", "0.17.0+cu130", "2.12.0+cu126, 12.6", "for CUDA 13.0"),
        ("torchcodec 0.13.0", "0.13.0+cpu", "2.13.0+cpu, ", ""),
        ("torchcodec 0.13.0", "0.13.0+cpu", "2.14.1, 13.0", ""),
        ("torchcodec 0.10.0", "0.10.0", "2.13.0+cpu, ", "for another torch"),
        ("torchcodec 0.99.0", "0.99.0+cpu", "2.13.0+cpu, ", ""),
        ("torchtext 0.18.0", "0.18.0+cpu", "2.4.1, 12.1", "for another torch"),
        # Builds and releases of which nothing is known are let through.
        ("torchvision 0.24.1", "0.24.1+rocm6.4", "2.9.1+rocm6.4, ", ""),
        ("torchvision 0.99.0", "0.99.0+cu150", "2.99.0, 14.0", ""),
    ],
)
def test_what_fails_beside_a_torch(
    tmp_path: Path, one: str, said: str, torch: str, why: str
) -> None:
    name, version = one.split()
    release, cuda = torch.split(", ")

    assert why == misfit(name, version, package(tmp_path, name, said), release, cuda)


def test_a_version_that_names_its_build_needs_no_file(tmp_path: Path) -> None:
    found = misfit("torchvision", "0.28.0+cu126", tmp_path, "2.13.0", "13.0")

    assert "for CUDA 12.6" == found
    assert "" == misfit("torchvision", "0.28.0", tmp_path, "2.13.0", "13.0")


@pytest.mark.parametrize("name", COMPANIONS)
def test_what_is_held_to_fits_every_build_that_it_is_for(tmp_path: Path, name: str) -> None:
    """The two directions agree: no constraint lets in what the doctor complains of."""
    for release in RELEASES.values():
        wanted = requirement(name, release.torch, release.default_cuda)
        if wanted:
            version = str(min(Version(one.version) for one in Requirement(wanted).specifier))
            found = misfit(name, version, tmp_path, release.torch, release.default_cuda)
            assert "" == found, wanted


@pytest.mark.parametrize("variant", CATALOG.variants, ids=lambda one: one.id)
def test_the_catalog_pairs_torch_with_what_goes_with_it(variant: catalog.Variant) -> None:
    listed = {Requirement(text).name: text for text in variant.packages}
    wanted = {name: requirement(name, variant.torch, variant.cuda) for name in COMPANIONS}

    assert {name: text for name, text in listed.items() if name in wanted} == {
        name: text for name, text in wanted.items() if name in listed
    }
