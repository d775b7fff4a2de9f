"""What is installed by pip's rules: the locked wheels, those bytes, and nothing else."""

from __future__ import annotations

import re
import zipfile
from typing import TYPE_CHECKING

import pytest
from packaging.utils import canonicalize_name

from torchkiln import package_rules
from torchkiln.contents import constraints

if TYPE_CHECKING:
    from pathlib import Path

    from expected import Expected

    from torchkiln.backend import Host
    from torchkiln.listing import ImageListing
    from torchkiln.lockfile import LockedWheel

_TOP_RECORD = re.compile(r"[^/]+\.dist-info/RECORD")  # packages that setuptools vendors have some


def test_locked_wheel_is_installed(
    image: ImageListing, expected: Expected, wheel: LockedWheel
) -> None:
    assert package_rules.wheel_faults(image, wheel, expected.venv) == []


def test_files_are_those_of_the_locked_wheel(
    image: ImageListing, expected: Expected, wheel: LockedWheel, pytestconfig: pytest.Config
) -> None:
    """The image's RECORD could lie with its files; that of the wheel has the locked hash."""
    blobs: Path | None = pytestconfig.getoption("--blobs")
    if blobs is None or not (blobs / wheel.sha256).is_file():
        pytest.skip("the wheel is not in the store")
    with zipfile.ZipFile(blobs / wheel.sha256) as archive:
        name = next(one for one in archive.namelist() if _TOP_RECORD.fullmatch(one))
        record = archive.read(name).decode()

    assert package_rules.altered_files(image, wheel, record, expected.venv) == []


def test_nothing_unlocked_is_in_the_environment(image: ImageListing, expected: Expected) -> None:
    assert package_rules.unlocked_wheels(image, expected.lock, expected.venv) == []


def test_pip_lists_the_lock(host: Host, expected: Expected) -> None:
    packages = host.pip.get_packages()

    locked = {wheel.name: wheel.version for wheel in expected.lock.wheels}
    assert {canonicalize_name(name): one["version"] for name, one in packages.items()} == locked


def test_pip_finds_no_broken_requirement(host: Host) -> None:
    done = host.pip.check()

    assert (done.rc, done.stderr) == (0, ""), done.stdout


def test_constraints_hold_torch_and_all_others(host: Host, expected: Expected) -> None:
    """Else a later `pip install` or `uv pip install` may swap torch."""
    found = host.environment()
    text = host.file(found["PIP_CONSTRAINT"]).content_string

    assert found["UV_CONSTRAINT"] == found["PIP_CONSTRAINT"]
    pins = {f"{wheel.name}=={wheel.version}" for wheel in expected.lock.wheels}
    assert pins <= set(text.splitlines())
    assert text == constraints(expected.variant, expected.lock)


def test_torch_is_built_for_the_variant(image: ImageListing, expected: Expected) -> None:
    assert package_rules.cuda_build(image, expected.variant.cuda, expected.venv) == []


def test_cpu_image_holds_no_cuda(image: ImageListing, expected: Expected) -> None:
    if expected.variant.cuda:
        pytest.skip("it is a CUDA image")
    assert package_rules.cuda_in_cpu_image(image, expected.lock) == []


def test_each_cuda_library_is_there_once(image: ImageListing, expected: Expected) -> None:
    assert package_rules.second_copies(image, expected.venv) == []
