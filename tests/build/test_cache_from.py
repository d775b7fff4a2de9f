"""A fleet of workers that share layers through a registry server, and one that is lied to."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from kiln_runs import Kiln, cpu_job, folder, identity, share

from torchkiln.engine.job import layer_key
from torchkiln.plan import plan_layers
from torchkiln.registry.cached import tag
from torchkiln.registry.manifests import OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OUT_OF_REACH = {
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "",
    "TORCHKILN_DEBIAN_MIRROR": "http://localhost:1",
}
"""There are no packages, so what is built comes from a cache or from the store."""


@pytest.fixture
def pushed(kiln: Kiln, cpu: dict[str, Any], registry: str) -> str:
    """The repository where worker A has pushed the image that it built."""
    done = kiln("push", "--cpu", "--to", f"{registry}/torch")
    assert done.returncode == 0, done.stderr
    assert cpu["digest"] in done.stdout
    return f"{registry}/torch"


@pytest.fixture
def worker() -> Iterator[Kiln]:
    """A worker with an empty store, out of reach of all packages."""
    with folder() as home:
        yield Kiln(home=home, env=OUT_OF_REACH)


def test_a_worker_with_an_empty_store_has_the_image_from_the_cache_without_a_package(
    cpu: dict[str, Any],
    pushed: str,
    worker: Kiln,
    record_property: Callable[[str, object], None],
) -> None:
    started = time.monotonic()
    done = worker("build", "--cpu", "--no-smoke", "--json", "--cache-from", pushed)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    assert identity(cpu) == identity(json.loads(done.stdout))
    assert "3 of 3 layers are from a cache" in done.stderr
    work = cpu_job(worker.home)
    assert not any(worker.store.has(one.sha256) for one in work.lock.wheels)
    assert not any(worker.store.has(one.sha256) for one in work.base_lock.debs)
    record_property("seconds", round(seconds, 1))  # in the report that CI keeps


@pytest.mark.slow
def test_a_worker_that_is_lied_to_on_one_layer_builds_that_one_alone(
    kiln: Kiln, cpu: dict[str, Any], pushed: str, worker: Kiln
) -> None:
    """Under the key of the light wheels lies torch's layer. Of the packages only those are here."""
    work = cpu_job(kiln.home)
    torch, light = plan_layers(work.lock)
    share(kiln.home, worker.home, [one.sha256 for one in light.wheels])
    name, _, repository = pushed.partition("/")
    url = f"http://{name}/v2/{repository}/manifests/"
    _put(url + tag(layer_key(work, light)), _get(url + tag(layer_key(work, torch))))

    done = worker("build", "--cpu", "--no-smoke", "--json", "--cache-from", pushed)
    assert done.returncode == 0, done.stderr
    assert identity(cpu) == identity(json.loads(done.stdout))
    assert f"warning: a cached layer is not `{light.name}`" in done.stderr
    assert f"io.torchkiln.key: it says {layer_key(work, torch)}" in done.stderr
    assert "2 of 3 layers are from a cache" in done.stderr


def _get(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": OCI_MANIFEST})  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - the test's own server
        data: bytes = answer.read()
    return data


def _put(url: str, data: bytes) -> None:
    headers = {"Content-Type": OCI_MANIFEST}
    request = urllib.request.Request(url, data=data, headers=headers, method="PUT")  # noqa: S310
    urllib.request.urlopen(request).close()  # noqa: S310
