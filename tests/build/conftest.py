"""What the tests of real builds share: one store, one image per variant, places to work."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kiln_runs import Kiln, folder, share_inputs, which
from registry_process import registry_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """The store of the session: empty at the start unless TORCHKILN_TEST_HOME names one."""
    if named := os.environ.get("TORCHKILN_TEST_HOME"):
        yield Path(named).absolute()
    else:
        with folder() as made:
            yield made


@pytest.fixture(scope="session")
def kiln(home: Path) -> Kiln:
    """`./kiln` of this clone with the store of the session."""
    return Kiln(home=home)


@pytest.fixture(scope="session")
def built(kiln: Kiln) -> Callable[[str], dict[str, Any]]:
    """A function that gives what `build --json` says of a variant (`cpu`, `cu117`), built once."""

    @cache
    def build(variant: str) -> dict[str, Any]:
        return kiln.build(*which(variant))

    return build


@pytest.fixture
def cpu(built: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What `build --cpu --json` says."""
    return built("cpu")


@pytest.fixture(scope="session")
def archive(kiln: Kiln, built: Callable[[str], dict[str, Any]]) -> Iterator[Path]:
    """The archive that `export --cpu` writes."""
    built("cpu")
    with folder() as place:
        path = place / "image.tar"
        done = kiln("export", "--cpu", "--output", str(path))
        assert done.returncode == 0, done.stderr
        yield path


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder of the test, gone afterwards."""
    with folder() as made:
        yield made


@pytest.fixture
def fetched(kiln: Kiln, cpu: dict[str, Any], scratch: Path) -> Kiln:
    """`./kiln` with a store that holds the CPU image's inputs and nothing made from them."""
    assert cpu["layers"], "after a build, the inputs are there"
    share_inputs(kiln.home, scratch)
    return Kiln(home=scratch)


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """The address of a registry server that is empty at the start of the file."""
    with folder() as place, registry_server(place) as address:
        yield address


@pytest.fixture(autouse=True, scope="session")
def _no_credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let skopeo and Podman read an empty file of credentials, not the machine's."""
    path = tmp_path_factory.mktemp("auth") / "auth.json"
    path.write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGISTRY_AUTH_FILE", str(path))
        yield
