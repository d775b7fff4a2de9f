"""One image for all tests here: `pytest tests/image --layout DIR --tree DIR --variant ID`.

`./kiln verify` runs them so. Without an image they are skipped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from expected import Expected

from torchkiln import backend, catalog
from torchkiln.config import venv
from torchkiln.listing import read_layout
from torchkiln.lockfile import read_base_lock, read_variant_lock
from torchkiln.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchkiln.backend import Host
    from torchkiln.listing import ImageListing

PROJECT = Path(__file__).resolve().parents[2]
_SHOWN = 8


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("image", "the image to verify")
    group.addoption("--layout", type=Path, help="its OCI layout directory")
    group.addoption("--tree", type=Path, help="the folder that it is unpacked in")
    group.addoption("--variant", help="the variant that it is to be: cpu, cu117")
    group.addoption("--blobs", type=Path, help="the store's blobs, to look into the locked wheels")


def _option(config: pytest.Config, name: str) -> Any:  # noqa: ANN401
    # Started on all of tests/, pytest reads this file too late to know the options.
    return config.getoption(name, default=None)


def _expected(name: str) -> Expected:
    variants = catalog.load(PROJECT / "images/variants.yaml")
    variant = variants.variant(name)
    return Expected(
        base=variants.base,
        variant=variant,
        lock=read_variant_lock(PROJECT, variants, variant),
        base_lock=read_base_lock(PROJECT, variants.base),
        venv=venv(variants.base),
    )


def pytest_collect_file(parent: pytest.Collector) -> None:
    """Skip the whole folder, in one line, where there is no image."""
    if not all(_option(parent.config, name) for name in ("--layout", "--tree", "--variant")):
        pytest.skip("no image was given: use `./kiln verify --cpu`", allow_module_level=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests with `wheel` one run for each locked wheel, by name."""
    if "wheel" in metafunc.fixturenames:
        wheels = _expected(_option(metafunc.config, "--variant")).lock.wheels
        metafunc.parametrize("wheel", wheels, ids=lambda wheel: wheel.name)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show violations one a line where a test expected none."""
    if op != "==" or right != [] or not isinstance(left, list):
        return None
    more = [f"and {len(left) - _SHOWN} more"] if len(left) > _SHOWN else []
    return [f"{len(left)} violation{'s' * (len(left) > 1)}", *map(str, left[:_SHOWN]), *more]


@pytest.fixture(scope="session")
def expected(pytestconfig: pytest.Config) -> Expected:
    return _expected(_option(pytestconfig, "--variant"))


@pytest.fixture(scope="session")
def image(pytestconfig: pytest.Config) -> ImageListing:
    """What the image's layers hold, read once."""
    return read_layout(_option(pytestconfig, "--layout"))


@pytest.fixture(scope="session")
def run_as(image: ImageListing, pytestconfig: pytest.Config) -> Callable[..., Host]:
    """Return a function that gives the image as a host, run as its user but for `changes`."""
    uid, _, gid = image.runtime["User"].partition(":")
    usual = Sandbox(
        root=_option(pytestconfig, "--tree"),
        env=image.environment,
        uid=int(uid),
        gid=int(gid),
        cwd=image.runtime["WorkingDir"],
    )
    return lambda **changes: backend.host(replace(usual, **changes))


@pytest.fixture(scope="session")
def host(run_as: Callable[..., Host]) -> Host:
    """The image as it runs by default (testinfra's own fixture of this name knows no image)."""
    return run_as()
