import pytest

from torchkiln.catalog import Variant
from torchkiln.conda.spec import Companion, CondaSpec, conda_spec, source
from torchkiln.lockfile import LockedWheel, VariantLock

KERNEL = "ipykernel=7.3.0"


def spec(torch: str, cuda: str | None, **locked: str) -> CondaSpec:
    """Return the environment of a variant whose companions are locked to `locked`."""
    locked = {"ipykernel": "7.3.0", **locked}
    wheels = tuple(
        LockedWheel(name=name, version=version, file="", size=1, sha256="0" * 64)
        for name, version in locked.items()
    )
    packages = tuple(reversed([name for name in locked if name != "ipykernel"]))
    variant = Variant(id="v", torch=torch, cuda=cuda, index=None, packages=packages)
    return conda_spec(variant, VariantLock(variant="v", inputs="", python="3.11", wheels=wheels))


def test_an_old_cuda_build_comes_from_the_pytorch_channel() -> None:
    expected = CondaSpec(
        channels=("pytorch", "nvidia", "conda-forge", "nodefaults"),
        core=("python=3.11", "pytorch=2.0.1=*_cuda11.7_*", "pytorch-cuda=11.7", "mkl<2024.1"),
        companions=(
            Companion(name="ipykernel", version="7.3.0", allowed=""),
            Companion(name="numpy", version="1.26.4", allowed=""),
            Companion(name="torchvision", version="0.15.2", allowed=""),
        ),
        pip=False,
        needs_driver="11.7",
    )

    assert expected == spec("2.0.1", "11.7", numpy="1.26.4", torchvision="0.15.2+cu117")


def test_an_old_cpu_build_comes_from_the_pytorch_channel() -> None:
    assert ("python=3.11", "pytorch=2.0.1=*_cpu_*", "cpuonly", "mkl<2024.1", KERNEL) == (
        spec("2.0.1", None).dependencies
    )


def test_a_new_cpu_build_comes_from_conda_forge() -> None:
    found = spec("2.13.0", None, pip="26.3")

    assert ("conda-forge", "nodefaults") == found.channels
    assert ("python=3.11", "pytorch=2.13.0=cpu*", KERNEL, "pip=26.3") == found.dependencies


def test_a_new_cuda_build_comes_from_conda_forge_and_asks_for_its_driver() -> None:
    found = spec("2.13.0", "13.0")

    assert ("python=3.11", "pytorch=2.13.0=cuda130*", "cuda-version=13.0", KERNEL) == (
        found.dependencies
    )
    assert "13.0" == found.needs_driver


def test_a_build_that_no_channel_has_is_installed_by_pip() -> None:
    found = spec("2.8.0", "12.8", numpy="2.3.0")

    assert found.pip
    assert ("python=3.11", "pip") == found.dependencies


@pytest.mark.parametrize("torch", ["2.15.0", "2.99.0"])
def test_what_conda_has_of_a_torch_is_not_guessed(torch: str) -> None:
    assert "pip" == source(torch, None)


def test_a_companion_may_be_another_where_the_catalog_lets_it() -> None:
    free, capped, pinned = (
        Companion(name="x", version="1", allowed=allowed) for allowed in ("", "<2", "==1")
    )

    assert (True, True, False) == (free.relaxable, capped.relaxable, pinned.relaxable)
