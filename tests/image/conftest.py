"""One image for all tests here: `pytest tests/image --layout DIR --tree DIR --variant ID`.

Or what an engine has, in its containers: `--engine docker --reference torchkiln:cpu --variant ID`.
`./kiln verify` runs them so. Without an image they are skipped.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from expected import Expected

from torchkiln import backend, catalog
from torchkiln.config import venv
from torchkiln.engine.connection import connect
from torchkiln.engine.containers import ContainerOptions, container, start
from torchkiln.engine.images import find_made
from torchkiln.engine.save import read_engine_image
from torchkiln.image_reader import read_layout
from torchkiln.inputs import base_lock
from torchkiln.lockfile import read_variant_lock
from torchkiln.pipeline import Project
from torchkiln.sandbox import Sandbox
from torchkiln.store import Store, default_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchkiln.backend import Host
    from torchkiln.engine.connection import Engine
    from torchkiln.listing import ImageListing

PROJECT = Path(__file__).resolve().parents[2]
_SHOWN = 8


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("image", "the image to verify")
    group.addoption("--layout", type=Path, help="its OCI layout directory")
    group.addoption("--tree", type=Path, help="the folder that it is unpacked in")
    group.addoption(
        "--engine", choices=("docker", "podman"), help="where it is, if not in a layout"
    )
    group.addoption("--reference", help="its name in the engine")
    group.addoption("--containers", default="", help="a label for the containers of the tests")
    group.addoption("--gpus", default="", help="the engine's GPUs for them: all, or 0,1")
    group.addoption("--variant", help="the variant that it is to be: cpu, cu117")
    group.addoption("--blobs", type=Path, help="the store's blobs, to look into the locked wheels")


def _option(config: pytest.Config, name: str) -> Any:  # noqa: ANN401
    # Started on all of tests/, pytest reads this file too late to know the options.
    return config.getoption(name, default=None)


def _expected(config: pytest.Config) -> Expected:
    variants = catalog.load(PROJECT / "images/variants.yaml")
    variant = variants.variant(_option(config, "--variant"))
    blobs = _option(config, "--blobs")
    store = Store(blobs.parents[1] if blobs else default_root(os.environ))
    project = Project(root=PROJECT, catalog=variants, store=store, environ=os.environ)
    return Expected(
        base=variants.base,
        variant=variant,
        lock=read_variant_lock(PROJECT, variants, variant),
        base_lock=base_lock(project),
        venv=venv(variants.base),
    )


def pytest_collect_file(parent: pytest.Collector) -> None:
    """Skip the whole folder, in one line, where there is no image."""
    ways = (("--layout", "--tree", "--variant"), ("--engine", "--reference", "--variant"))
    if not any(all(_option(parent.config, name) for name in way) for way in ways):
        pytest.skip("no image was given: use `./kiln verify --cpu`", allow_module_level=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests with `wheel` one run for each locked wheel, by name."""
    if "wheel" in metafunc.fixturenames:
        wheels = _expected(metafunc.config).lock.wheels
        metafunc.parametrize("wheel", wheels, ids=lambda wheel: wheel.name)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show violations one a line where a test expected none."""
    if op != "==" or right != [] or not isinstance(left, list):
        return None
    more = [f"and {len(left) - _SHOWN} more"] if len(left) > _SHOWN else []
    return [f"{len(left)} violation{'s' * (len(left) > 1)}", *map(str, left[:_SHOWN]), *more]


@pytest.fixture(scope="session")
def expected(pytestconfig: pytest.Config) -> Expected:
    return _expected(pytestconfig)


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Iterator[Engine | None]:
    """The engine that has the image; None where it lies in a layout."""
    name = _option(pytestconfig, "--engine")
    if name is None:
        yield None
        return
    with connect(name) as found:
        yield found


@pytest.fixture(scope="session")
def image(engine: Engine | None, expected: Expected, pytestconfig: pytest.Config) -> ImageListing:
    """What the image's layers hold, read once."""
    if engine is None:
        return read_layout(_option(pytestconfig, "--layout"))
    reference = _option(pytestconfig, "--reference")
    return read_engine_image(engine, find_made(engine, reference, expected.variant.flag))


@pytest.fixture
def own_layers(engine: Engine | None, image: ImageListing) -> ImageListing:
    """The image where its layers are as Torchkiln writes them."""
    if engine is not None:
        pytest.skip("an engine has layers in a form of its own")
    return image


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder of the test, open to the user of a container, who may be another than ours."""
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture(scope="session")
def run_as(
    engine: Engine | None, image: ImageListing, pytestconfig: pytest.Config
) -> Iterator[Callable[..., Host]]:
    """Return a function that gives the image as a host, run as its user but for `changes`."""
    uid, _, gid = image.runtime["User"].partition(":")
    if engine is None:
        usual = Sandbox(
            root=_option(pytestconfig, "--tree"),
            env=image.environment,
            uid=int(uid),
            gid=int(gid),
            cwd=image.runtime["WorkingDir"],
        )
        yield lambda **changes: backend.host(replace(usual, **changes))
        return
    reference = _option(pytestconfig, "--reference")
    loaded = find_made(engine, reference, "")
    options = ContainerOptions(
        gpus=_option(pytestconfig, "--gpus"), run=_option(pytestconfig, "--containers")
    )
    with ExitStack() as containers:

        def start_container(**changes: Any) -> Host:  # noqa: ANN401
            if changes.get("mounts") and not engine.local:
                pytest.skip("the engine is on another machine")
            changes["environment"] = changes.pop("env", {})
            changed = replace(options, **changes)
            made = container(engine, loaded, ["sleep", "infinity"], changed)
            running = containers.enter_context(made)
            start(engine, running)
            return backend.container_host(engine.name, str(running.name))

        yield start_container


@pytest.fixture(scope="session")
def host(run_as: Callable[..., Host]) -> Host:
    """The image as it runs by default (testinfra's own fixture of this name knows no image)."""
    return run_as()
