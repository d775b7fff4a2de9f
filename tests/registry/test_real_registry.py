"""Push and pull with Debian's registry server, over a way that breaks; skopeo is the judge."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from torchkiln.config import ImageConfig
from torchkiln.errors import KilnError
from torchkiln.image import Image, write_image
from torchkiln.layer import Entry, write_layer
from torchkiln.registry import upload
from torchkiln.registry.pull import pull
from torchkiln.registry.push import push
from torchkiln.registry.reference import Reference, parse

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Wire

    from torchkiln.store import Store

_LAYER = 1_000_000
_OVERHEAD = 20_000  # bytes of requests and manifests
_CONFIG = ImageConfig(environment={"PATH": "/bin"}, labels={}, created="2026-01-02T03:04:05Z")
# Where a push of two layers is cut: in headers, in the first bytes, in each layer, at its end.
CUTS = [1, 100, 1_000, 3_000, *range(60_000, 2 * _LAYER, 121_000)]


def image(store: Store, *seeds: int) -> Image:
    """Return an image with a layer of noise for each seed."""
    layers = []
    for seed in seeds:
        data = random.Random(seed).randbytes(_LAYER)  # noqa: S311 - the same each time
        with store.workspace() as folder:
            layer = write_layer(folder / "layer", f"l{seed}", [Entry.text(f"f{seed}", data)])
            store.adopt(folder / "layer", layer.digest)
        layers.append(layer)
    return write_image(store, "cpu", layers, _CONFIG)


def at(address: str, repository: str, tag: str = "cpu") -> Reference:
    return parse(f"{address}/{repository}:{tag}")


def environ() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def skopeo(*words: str) -> str:
    """Return what skopeo prints."""
    if not shutil.which("skopeo"):
        pytest.skip("not installed: skopeo")
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def inspected(reference: Reference) -> str:
    """Return the digest that skopeo finds."""
    found = skopeo("inspect", "--tls-verify=false", f"docker://{reference}")
    digest: str = json.loads(found)["Digest"]
    return digest


def test_there_were_enough_cuts() -> None:
    assert len(CUTS) >= 20


@pytest.mark.parametrize("count", CUTS)
def test_a_push_over_a_broken_way_arrives_whole(
    count: int, store: Store, server: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunked above 300 kB. This server forgets an upload that broke in the middle of a chunk."""
    monkeypatch.setattr(upload, "WHOLE", 300_000)
    made = image(store, 1, 2)
    wire.break_after(up=count)
    push(store, made, at(wire.address, f"cut/{count}"), ["cpu"], environ())

    assert wire.cuts == 1
    assert f"sha256:{made.digest}" == inspected(at(server, f"cut/{count}"))
    assert wire.up < 2 * made.size + _OVERHEAD


@pytest.mark.parametrize("count", CUTS)
def test_a_pull_over_a_broken_way_arrives_whole_and_resumes(
    count: int, store: Store, elsewhere: Store, server: str, wire: Wire
) -> None:
    made = image(store, 1, 2)
    push(store, made, at(server, "pulled"), ["cpu"], environ())
    wire.break_after(down=count)
    back = pull(elsewhere, at(wire.address, "pulled"), environ())

    assert wire.cuts == 1
    assert made.digest == back.image.digest
    assert made.layers == back.image.layers
    buffered = 1 << 19  # of the socket: what was sent, and lost with the connection
    assert wire.down < made.size + buffered + _OVERHEAD


def test_only_what_changed_goes_over_the_wire(
    store: Store, elsewhere: Store, server: str, wire: Wire
) -> None:
    push(store, image(store, 1, 2), at(server, "changed"), ["cpu"], environ())
    pull(elsewhere, at(server, "changed"), environ())
    changed = image(store, 1, 3)
    push(store, changed, at(wire.address, "changed"), ["cpu"], environ())
    assert wire.up < changed.layers[1].size + _OVERHEAD

    pull(elsewhere, at(wire.address, "changed"), environ())
    assert wire.down < changed.layers[1].size + 2 * _OVERHEAD


def test_this_registry_mounts_blobs_of_another_repository(
    store: Store, server: str, wire: Wire
) -> None:
    made = image(store, 4)
    push(store, made, at(wire.address, "first"), ["cpu"], environ())
    sent = wire.up
    again = push(store, made, at(wire.address, "second"), ["cpu"], environ())

    assert {"mounted": 2} == again.outcomes
    assert wire.up - sent < _OVERHEAD
    assert f"sha256:{made.digest}" == inspected(at(server, "second"))


def test_skopeo_copies_what_we_pushed_and_we_pull_what_it_pushed(
    store: Store, elsewhere: Store, server: str, tmp_path: Path
) -> None:
    made = image(store, 5, 6)
    push(store, made, at(server, "ours"), ["cpu"], environ())
    source, target = at(server, "ours"), at(server, "copied")
    tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", *tls, f"docker://{source}", f"docker://{target}")
    skopeo("copy", tls[0], f"docker://{source}", f"oci:{tmp_path}/layout:cpu")
    back = pull(elsewhere, target, environ())

    assert made.digest == back.image.digest
    for one in made.layers:
        copied = tmp_path / "layout/blobs/sha256" / one.digest
        assert store.blob(one.digest).read_bytes() == copied.read_bytes()


def test_an_image_in_dockers_format_is_pulled(store: Store, elsewhere: Store, server: str) -> None:
    made = image(store, 7)
    push(store, made, at(server, "oci"), ["cpu"], environ())
    source, target = at(server, "oci"), at(server, "v2s2")
    tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", *tls, "--format=v2s2", f"docker://{source}", f"docker://{target}")
    back = pull(elsewhere, target, environ())

    assert made.digest != back.image.digest
    assert [one.diff_id for one in made.layers] == [one.diff_id for one in back.image.layers]


def test_a_blob_that_the_server_has_changed_is_refused_by_name(
    store: Store, elsewhere: Store, server: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = image(store, 8)
    push(store, made, at(server, "damaged"), ["cpu"], environ())
    digest = made.layers[0].digest
    base = tmp_path_factory.getbasetemp()
    (path, *_) = base.glob(f"registry*/registry/docker/registry/v2/blobs/sha256/*/{digest}/data")
    data = bytearray(path.read_bytes())
    data[500_000] ^= 1
    path.write_bytes(data)

    with pytest.raises(KilnError, match="l8"):
        pull(elsewhere, at(server, "damaged"), environ())
    assert not list((elsewhere.root / "images").glob("*"))
