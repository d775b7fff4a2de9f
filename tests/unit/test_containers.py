"""How containers are asked for; real ones run in tests/build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from docker_server import Daemon, engine_of

from torchkiln.engine.connection import Endpoint
from torchkiln.engine.containers import ContainerOptions, _settings, container
from torchkiln.engine.images import EngineImage
from torchkiln.errors import EngineError
from torchkiln.sandbox import Mount

if TYPE_CHECKING:
    from torchkiln.engine.connection import Engine

IMAGE = EngineImage(reference="torchkiln:cpu", id="sha256:1", diff_ids=(), size=1)


def settings(daemon: Daemon | None = None, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    with engine_of(daemon or Daemon()) as engine:
        return _settings(engine, ContainerOptions(**options))


def test_a_container_is_as_closed_as_the_sandbox() -> None:
    found = settings()

    assert "none" == found["network_mode"]
    assert found["read_only"]
    assert "/tmp" in found["tmpfs"]  # noqa: S108
    assert "device_requests" not in found
    assert "user" not in found


def test_shared_memory_is_half_of_the_machines_as_in_the_sandbox() -> None:
    assert 1 << 29 == settings()["shm_size"]


def test_what_is_asked_for_is_given() -> None:
    mount = Mount(source=Path("/data"), target="/mnt", writable=True)
    found = settings(uid=7, network=True, mounts=(mount,), environment={"A": "1"}, run="abc")

    assert "7:0" == found["user"]
    assert "network_mode" not in found
    assert {"A": "1"} == found["environment"]
    assert {"io.torchkiln.run": "abc"} == found["labels"]
    (made,) = found["mounts"]
    assert ("/data", "/mnt", False) == (made["Source"], made["Target"], made["ReadOnly"])


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [("all", {"Count": -1, "DeviceIDs": []}), ("0,2", {"Count": 0, "DeviceIDs": ["0", "2"]})],
)
def test_docker_is_asked_for_gpus_by_number_or_for_all(gpus: str, expected: object) -> None:
    (request,) = settings(gpus=gpus)["device_requests"]

    assert [["gpu"]] == request["Capabilities"]
    assert expected == {name: request[name] for name in ("Count", "DeviceIDs")}


def test_podman_is_asked_for_gpus_by_their_cdi_names() -> None:
    podman = Daemon(version="5.4.2", components=("Podman Engine",))
    (request,) = settings(podman, gpus="0,1")["device_requests"]

    assert ("cdi", ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]) == (
        request["Driver"],
        request["DeviceIDs"],
    )


def test_a_podman_that_would_give_no_gpu_without_a_word_is_refused() -> None:
    podman = Daemon(version="4.3.1", components=("Podman Engine",))
    with pytest.raises(EngineError, match="passes no GPUs") as caught:
        settings(podman, gpus="all")

    assert "--device nvidia.com/gpu=all" in caught.value.hint


def far(engine: Engine) -> Engine:
    return replace(engine, endpoint=Endpoint(url="tcp://far:2375", origin="DOCKER_HOST"))


def test_folders_are_not_mounted_into_an_engine_on_another_machine() -> None:
    options = ContainerOptions(mounts=(Mount(source=Path("/data"), target="/mnt"),))
    with (
        engine_of(Daemon()) as engine,
        pytest.raises(EngineError, match=r"cannot be mounted into Docker .+ at tcp://far"),
        container(far(engine), IMAGE, ["true"], options),
    ):
        pass


@pytest.mark.parametrize(("commit", "init"), [("de40ad0", True), ("", True), ("N/A", False)])
def test_a_program_is_not_process_1_where_the_engine_has_an_init(
    commit: str, *, init: bool
) -> None:
    """As process 1 it would ignore SIGTERM. Docker gives N/A where its init does not run."""
    assert init is settings(Daemon(init=commit), init=True)["init"]
    assert "init" not in settings(Daemon(init=commit))


def test_a_podman_without_an_init_makes_the_container_all_the_same() -> None:
    daemon = Daemon(without_init=True)
    with (
        engine_of(daemon) as engine,
        container(engine, IMAGE, ["true"], ContainerOptions(init=True)),
    ):
        pass

    assert [True, False] == [made["HostConfig"].get("Init") for made in daemon.created]
