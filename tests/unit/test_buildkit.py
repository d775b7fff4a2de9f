"""What buildx is asked; that it builds is shown with a real engine in tests/build."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from docker_server import Daemon, serving, short_folder
from rendering import BASE_LOCK, CATALOG, CPU
from wheels import Draft

from torchkiln.engine.buildkit import Builder, _arguments, _fill_wheelhouse, find_builder
from torchkiln.engine.connection import connect
from torchkiln.engine.job import Job
from torchkiln.errors import EngineError
from torchkiln.lockfile import VariantLock
from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torchkiln.engine.connection import Engine


@contextmanager
def engine_with(script: str, version: str = "26.1.5") -> Iterator[Engine]:
    """Give an engine whose command line is a shell script."""
    with short_folder() as folder, serving(Daemon(version=version), folder) as url:
        program = folder / "docker"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        with connect("docker", {"DOCKER_HOST": url, "PATH": path}) as engine:
            yield engine


def says(driver: str) -> str:
    return f'[ "$2" = version ] || printf "Name: x\\nDriver:        {driver}\\n"'


@pytest.mark.parametrize(
    ("name", "driver", "version"),
    [
        ("", "docker", "23.0.0"),
        ("", "docker-container", "20.10.24"),
        ("far", "remote", "20.10.24"),
        ("pods", "kubernetes", "26.1.5"),
    ],
)
def test_a_builder_that_can_build_is_taken(name: str, driver: str, version: str) -> None:
    with engine_with(says(driver), version) as engine:
        assert Builder(name=name, driver=driver) == find_builder(engine, name)


def test_a_command_line_without_buildx_says_what_to_install() -> None:
    script = "echo \"docker: 'buildx' is not a docker command.\" >&2; exit 1"
    with engine_with(script) as engine, pytest.raises(EngineError, match="has no buildx") as error:
        find_builder(engine, "")

    assert "apt-get install docker-buildx" in error.value.hint


def test_an_engine_that_is_too_old_says_which_is_not_and_what_works_with_it() -> None:
    with (
        engine_with(says("docker"), "20.10.24+dfsg1") as engine,
        pytest.raises(EngineError, match="too old") as error,
    ):
        find_builder(engine, "")

    assert "Docker 23 or newer" in error.value.why
    assert "--load" in error.value.hint


def test_a_builder_that_there_is_not_is_named_with_what_buildx_says() -> None:
    script = '[ "$2" = version ] || { echo "ERROR: no builder \\"nope\\" found" >&2; exit 1; }'
    with engine_with(script) as engine, pytest.raises(EngineError, match="`nope`") as error:
        find_builder(engine, "nope")

    assert 'no builder "nope" found' in error.value.why
    assert "docker buildx ls" == error.value.hint


def test_another_engine_is_no_builder_because_the_image_would_stay_there() -> None:
    with engine_with(says("docker")) as engine, pytest.raises(EngineError) as error:
        find_builder(engine, "other")

    assert "where the image would stay" in error.value.what
    assert "DOCKER_CONTEXT=other ./kiln build --engine docker" == error.value.hint


def job(folder: Path) -> Job:
    """Return a job with a heavy wheel and a light one in the store."""
    store = Store(folder / "store")
    wheels = []
    for name in ("light", "torch"):
        draft = Draft(name=name)
        data = draft.pack()
        store.put(data)
        wheels.append(draft.locked(data))
    return Job(
        project=folder,
        store=store,
        base=CATALOG.base,
        variant=CPU,
        lock=VariantLock(variant="cpu", inputs="", python="3.11", wheels=tuple(wheels)),
        base_lock=BASE_LOCK,
    )


def test_the_wheelhouse_has_the_wheels_of_each_layer_and_installer(tmp_path: Path) -> None:
    work = job(tmp_path)
    _fill_wheelhouse(work, tmp_path / "context")
    place = tmp_path / "context/wheelhouse"

    assert ["tools", "wheels"] == sorted(path.name for path in place.iterdir())
    assert ["light-1.0-py3-none-any.whl", "torch-1.0-py3-none-any.whl"] == sorted(
        path.name for path in (place / "wheels").iterdir()
    )
    assert (place / "tools/installer/__main__.py").is_file()
    assert [] == list(place.rglob("__pycache__"))


def test_base_and_wheelhouse_are_contexts_and_no_step_has_a_network(tmp_path: Path) -> None:
    words = _arguments(job(tmp_path), "oci-layout:///base@sha256:0", tmp_path / "w", "torchkiln:x")
    pairs = list(itertools.pairwise(words))

    assert ("--build-context", "base=oci-layout:///base@sha256:0") in pairs
    assert ("--build-context", f"wheelhouse={tmp_path}/w") in pairs
    assert ("--build-context", f"smoke={tmp_path}/smoke") in pairs
    assert ("--network", "none") in pairs
    assert ("--tag", "torchkiln:x") in pairs
    assert f"{tmp_path}/images/cpu" == words[-1]


def test_the_clock_of_the_build_is_the_date_of_the_lock(tmp_path: Path) -> None:
    words = _arguments(job(tmp_path), "", tmp_path, "")

    assert "SOURCE_DATE_EPOCH=1767323045" in words  # 2026-01-02T03:04:05Z
