from __future__ import annotations

import time

import pytest
from docker_server import Daemon, engine_of

from torchkiln.engine.images import arriving, find, find_made, push
from torchkiln.errors import EngineError

ID = f"sha256:{'1' * 64}"
OLD = {"Id": ID, "Size": 5, "RootFS": {"Layers": ["sha256:2"]}}


def test_an_image_is_found_by_its_name_and_a_missing_one_is_none() -> None:
    with engine_of(Daemon(images={"torchkiln:cpu": OLD})) as engine:
        found = find(engine, "torchkiln:cpu")
        assert found
        assert (ID, ("sha256:2",), 5) == (found.id, found.diff_ids, found.size)
        assert find(engine, "torchkiln:cu117") is None


def test_a_missing_image_says_how_it_is_made() -> None:
    with engine_of(Daemon()) as engine, pytest.raises(EngineError) as caught:
        find_made(engine, "torchkiln:cpu", "--cpu")

    assert "there is no image `torchkiln:cpu` in Docker 26.1.5" in caught.value.what
    assert "./kiln build --cpu --load" == caught.value.hint


def test_what_arrives_gets_its_name_when_it_is_whole() -> None:
    daemon = Daemon()
    with engine_of(daemon) as engine, arriving(engine, "torchkiln:cpu") as name:
        daemon.images[name] = {**OLD, "RepoTags": [name]}
        assert find(engine, "torchkiln:cpu") is None

    assert ["torchkiln:cpu"] == list(daemon.images)


def test_what_does_not_arrive_is_gone_and_the_old_one_stays() -> None:
    daemon = Daemon(images={"torchkiln:cpu": OLD})

    def fail() -> None:
        with engine_of(daemon) as engine, arriving(engine, "torchkiln:cpu") as name:
            daemon.images[name] = {"Id": "sha256:half", "RepoTags": [name]}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {"torchkiln:cpu": OLD} == daemon.images


def test_what_a_killed_build_left_is_swept_away_after_a_day() -> None:
    names = [f"torchkiln:arriving-{time.time() - days * 86400:.0f}-ab12" for days in (0.5, 1.5)]
    daemon = Daemon(images={name: {"RepoTags": [name], **OLD} for name in names})
    with engine_of(daemon) as engine, arriving(engine, "torchkiln:cpu") as name:
        daemon.images[name] = {**OLD, "RepoTags": [name]}

    assert {names[0], "torchkiln:cpu"} == set(daemon.images)


@pytest.mark.parametrize("target", ["", "cpu", "localhost:5000/torchkiln"])
def test_a_name_without_registry_or_tag_is_refused(target: str) -> None:
    with engine_of(Daemon(images={"torchkiln:cpu": OLD})) as engine:
        image = find_made(engine, "torchkiln:cpu", "--cpu")
        with pytest.raises(EngineError, match="no name for an image in a registry"):
            push(engine, image, target)
