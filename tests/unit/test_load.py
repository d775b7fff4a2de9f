"""Loading against a small engine that speaks Docker's API; real ones are in tests/build."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from docker_server import Daemon, engine_of
from image_archives import CONFIG, image

from torchkiln.engine.load import load
from torchkiln.errors import EngineError
from torchkiln.image_archive import archive
from torchkiln.store import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def size(path: Path) -> int:
    return sum(map(len, archive(path)))


def test_an_image_is_sent_whole_and_gets_its_name(store: Store) -> None:
    made, daemon = image(store, "base", "torch"), Daemon()
    with engine_of(daemon) as engine:
        loaded = load(engine, store, made)

    assert f"sha256:{made.config}" == loaded.id
    assert ["torchkiln:cpu"] == list(daemon.images)
    assert 1 == len(daemon.received)


def test_an_image_that_is_there_is_not_sent_again(store: Store) -> None:
    made, daemon = image(store, "base"), Daemon()
    with engine_of(daemon) as engine:
        first, second = (load(engine, store, made) for _ in range(2))

    assert first == second
    assert 1 == len(daemon.received)


def test_layers_that_the_engine_has_at_the_beginning_are_left_out(store: Store) -> None:
    """Docker's own store knows a layer by those below it."""
    before, daemon = image(store, "base", "torch", "old"), Daemon()
    after = image(store, "base", "torch", "new")
    with engine_of(daemon) as engine:
        load(engine, store, before)
        load(engine, store, after)

    left_out = {layer.digest for layer in after.layers[:2]}
    assert daemon.received[1] <= sum(map(len, archive(after.layout, without=left_out))) + 10240
    assert f"sha256:{after.config}" == daemon.images["torchkiln:cpu"]["Id"]


def test_a_layer_on_others_than_before_is_sent(store: Store) -> None:
    before, daemon = image(store, "base", "torch"), Daemon()
    after = image(store, "other", "torch")
    with engine_of(daemon) as engine:
        load(engine, store, before)
        load(engine, store, after)

    assert daemon.received[1] >= sum(layer.size for layer in after.layers)


def test_containerds_store_knows_a_layer_wherever_it_lies(store: Store) -> None:
    before, daemon = image(store, "base", "torch"), Daemon(containerd=True)
    after = image(store, "torch", "base", "new")
    with engine_of(daemon) as engine:
        load(engine, store, before)
        daemon.images["torchkiln:cpu"]["Id"] = f"sha256:{before.digest}"
        load(engine, store, after)

    known = {layer.digest for layer in after.layers[:2]}
    assert daemon.received[1] < sum(map(len, archive(after.layout, without=known))) + 10240


def test_podman_is_sent_everything(store: Store) -> None:
    daemon = Daemon(components=("Podman Engine",))
    made = image(store, "base", "torch")
    other = image(store, "base", "torch", config=replace(CONFIG, labels={"a": "b"}))
    with engine_of(daemon) as engine:
        load(engine, store, made)
        load(engine, store, other)

    assert all(one >= sum(layer.size for layer in made.layers) for one in daemon.received)


def test_an_engine_that_lost_a_layer_is_sent_everything(store: Store) -> None:
    before, daemon = image(store, "base", "old"), Daemon()
    after = image(store, "base", "new")
    with engine_of(daemon) as engine:
        load(engine, store, before)
        daemon.has.clear()
        load(engine, store, after)

    assert 3 == len(daemon.received)
    assert f"sha256:{after.config}" == daemon.images["torchkiln:cpu"]["Id"]


def test_a_load_that_fails_leaves_nothing_and_the_old_name_where_it_was(store: Store) -> None:
    before, daemon = image(store, "base", "old"), Daemon()
    with engine_of(daemon) as engine:
        load(engine, store, before)
        daemon.fault = "write /layer: no space left on device"
        with pytest.raises(EngineError) as caught:
            load(engine, store, image(store, "base", "new"))

    assert ["torchkiln:cpu"] == list(daemon.images)
    assert f"sha256:{before.config}" == daemon.images["torchkiln:cpu"]["Id"]
    assert "cannot load `torchkiln:cpu`" in caught.value.what
    assert "no space left on device" in caught.value.why
    assert "docker system prune" in caught.value.hint


def test_another_image_than_the_one_that_was_sent_is_an_error(store: Store) -> None:
    made, daemon = image(store, "base"), Daemon()
    send = daemon.load

    def other(data: bytes) -> str:
        fault = send(data)
        for one in daemon.images.values():
            one["Id"] = f"sha256:{'0' * 64}"
        return fault

    daemon.load = other  # type: ignore[method-assign]
    with engine_of(daemon) as engine, pytest.raises(EngineError, match="another image"):
        load(engine, store, made)
