"""Push and pull against a registry by the letter of the specification, that breaks on command."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import registry_server as servers
from image_archives import CONFIG, layer
from registry_server import RegistryState, registry
from servers import authority
from victims import victim

from torchkiln import exchange
from torchkiln.errors import ArchiveError, KilnError, RegistryError, StoreError
from torchkiln.image import Image, write_image
from torchkiln.layer import Entry
from torchkiln.origin import read_image
from torchkiln.pipeline import open_project
from torchkiln.registry import upload
from torchkiln.registry.pull import Pulled, check_layers, pull
from torchkiln.registry.push import Pushed, push
from torchkiln.registry.reference import Reference, parse
from torchkiln.registry.unpacked import unpacked_size
from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchkiln.pipeline import Project

ROOT: Final = Path(__file__).parents[2]
_CHUNK: Final = 10_000
_LAYER: Final = 50_000
CUTS: Final = [1, 7, 99, 4_095, 4_096, 9_998, 9_999, *range(1_003, 9_003, 650)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, small chunks."""
    monkeypatch.setattr("torchkiln.transport.random.uniform", lambda *_: 0.001)
    monkeypatch.setattr(upload, "WHOLE", _CHUNK)
    monkeypatch.setattr(upload, "_SMALLEST", 1_000)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    """The store of another machine."""
    return Store(tmp_path / "elsewhere")


@pytest.fixture
def there() -> Iterator[RegistryState]:
    with registry() as state:
        yield state


def noise(seed: int, size: int = _LAYER) -> bytes:
    """Return bytes that do not compress."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - bytes that are the same each time


def image(store: Store, *seeds: int) -> Image:
    """Return an image with a layer of noise for each seed."""
    layers = [layer(store, f"l{seed}", Entry.text(f"f{seed}", noise(seed))) for seed in seeds]
    return write_image(store, "cpu", layers, CONFIG)


def target(there: RegistryState, repository: str = "torch/cpu", tag: str = "") -> Reference:
    return Reference(registry=there.address, repository=repository, tag=tag)


def pushed(
    store: Store, made: Image, there: RegistryState, repository: str = "torch/cpu", tag: str = "cpu"
) -> Pushed:
    return push(store, made, target(there, repository), [tag], environ())


def pulled(store: Store, there: RegistryState, tag: str = "cpu") -> Pulled:
    return pull(store, target(there, tag=tag), environ())


def environ(**settings: str) -> dict[str, str]:
    """Return an environment without the credentials of whoever runs the tests."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **settings}


def rightly(handler: servers.RegistryHandler) -> None:
    """Answer as a registry should."""
    handler.answer()


def uploaded(there: RegistryState, made: Image, repository: str = "torch/cpu") -> bool:
    """Tell whether the registry holds the image's layers as they are."""
    have = there.blobs[repository]
    return all(
        hashlib.sha256(have.get(f"sha256:{one.digest}", b"")).hexdigest() == one.digest
        for one in made.layers
    )


def test_an_image_goes_there_and_back_with_its_digest(
    store: Store, elsewhere: Store, there: RegistryState
) -> None:
    made = image(store, 1, 2)
    sent = pushed(store, made, there)
    back = pulled(elsewhere, there)

    assert f"sha256:{made.digest}" == sent.reference.digest == back.reference.digest
    assert made.layers == back.image.layers
    assert made.environment == back.image.environment
    names = sorted(path.name for path in (back.image.layout / "blobs/sha256").iterdir())
    assert sorted([made.digest, made.config, *(one.digest for one in made.layers)]) == names
    assert sent.sent == back.received == there.received - manifests_size(there)


def manifests_size(there: RegistryState) -> int:
    """Return the bytes of manifests that were put: each once by digest and once by tag."""
    return sum(len(data) for found in there.manifests.values() for _, data in found.values())


def test_what_the_registry_has_is_not_sent_and_what_the_store_has_is_not_pulled(
    store: Store, elsewhere: Store, there: RegistryState
) -> None:
    pushed(store, image(store, 1, 2), there)
    pulled(elsewhere, there)
    changed = image(store, 1, 3)
    again, back = pushed(store, changed, there), pulled(elsewhere, there)

    config = store.blob(changed.config).stat().st_size
    assert changed.layers[1].size + config == again.sent == back.received
    assert {"present": 1, "sent": 2} == again.outcomes
    assert 0 == pushed(store, changed, there).sent == pulled(elsewhere, there).received


def test_blobs_of_another_repository_are_mounted(store: Store, there: RegistryState) -> None:
    made = image(store, 1, 2)
    pushed(store, made, there, "torch/cpu")
    again = pushed(store, made, there, "team/cpu")

    assert 0 == again.sent
    assert {"mounted": 3} == again.outcomes
    assert uploaded(there, made, "team/cpu")


def test_a_mount_that_is_answered_with_an_upload_uses_that_upload(
    store: Store, there: RegistryState
) -> None:
    made = image(store, 1, 2)
    pushed(store, made, there, "torch/cpu")
    there.mounts = False
    there.requests.clear()
    pushed(store, made, there, "team/cpu")

    assert uploaded(there, made, "team/cpu")
    assert all("mount=" in path for path in there.asked("POST")), "no second upload was begun"


@pytest.mark.parametrize("count", CUTS)
def test_a_push_that_is_cut_goes_on_where_the_registry_says(
    count: int, store: Store, there: RegistryState
) -> None:
    made = image(store, 1)
    there.faults["PATCH upload"] = [servers.cut_body(count)]
    pushed(store, made, there)

    assert uploaded(there, made)
    begun = len(there.asked("POST", "/uploads/"))
    if count == 1:  # `Range: 0-0` may mean one byte or none
        assert 3 == begun
        return
    assert 2 == begun, "the layer and the configuration, nothing begun anew"
    starts = [
        int(headers["content-range"].partition("-")[0])
        for verb, _, headers in there.requests
        if verb == "PATCH"
    ]
    assert count in starts, "it went on after the bytes that had come"


@pytest.mark.parametrize("count", CUTS)
def test_a_pull_that_is_cut_goes_on_where_it_broke(
    count: int, store: Store, elsewhere: Store, there: RegistryState
) -> None:
    made = image(store, 1)
    pushed(store, made, there)
    place = 5 * count
    there.faults["GET blob"] = [rightly, servers.cut_answer(place)]
    back = pulled(elsewhere, there)

    assert made.digest == back.image.digest
    asked = [headers.get("range") for _, path, headers in there.requests if "/blobs/" in path]
    assert f"bytes={place}-" in asked


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("POST uploads", servers.status(429, Retry_After="0")),
        ("POST uploads", servers.status(500)),
        ("POST uploads", servers.lost_answer),
        ("PATCH upload", servers.status(429, Retry_After="0")),
        ("PATCH upload", servers.status(500)),
        ("PATCH upload", servers.status(416)),
        ("PATCH upload", servers.status(404, "BLOB_UPLOAD_UNKNOWN")),
        ("PATCH upload", servers.status(413)),
        ("PATCH upload", servers.lost_answer),
        ("PUT upload", servers.status(500)),
        ("PUT upload", servers.status(404, "BLOB_UPLOAD_UNKNOWN")),
        ("PUT upload", servers.lost_answer),
        ("PUT manifest", servers.status(503)),
        ("PUT manifest", servers.lost_answer),
        ("HEAD blob", servers.status(502)),
    ],
)
def test_what_may_pass_is_tried_again(
    kind: str, fault: servers.Fault, store: Store, there: RegistryState
) -> None:
    made = image(store, 1, 2)
    there.faults[kind] = [fault]
    pushed(store, made, there)

    assert uploaded(there, made)
    assert [] == there.faults[kind]
    assert "cpu" in there.manifests["torch/cpu"]


def test_an_upload_whose_last_answer_is_lost_is_not_sent_twice(
    store: Store, there: RegistryState
) -> None:
    made = image(store, 1)
    there.faults["PUT upload"] = [servers.lost_answer, servers.lost_answer]
    pushed(store, made, there)

    assert there.received < 2 * made.size


def test_a_registry_that_fails_for_good_is_named(store: Store, there: RegistryState) -> None:
    there.faults["PATCH upload"] = [servers.status(500)] * 50
    with pytest.raises(RegistryError, match=f"cannot push to {there.address}/torch/cpu") as caught:
        pushed(store, image(store, 1), there)

    assert "HTTP 500" in caught.value.why
    assert not there.manifests["torch/cpu"]


def test_a_registry_without_chunks_gets_blobs_whole(store: Store, there: RegistryState) -> None:
    made = image(store, 1)
    there.faults["PATCH upload"] = [servers.status(405)]
    pushed(store, made, there)

    assert uploaded(there, made)
    assert 1 == len(there.asked("PATCH"))


def test_a_registry_that_takes_no_large_body_gets_smaller_ones(
    store: Store, there: RegistryState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "WHOLE", 1_000_000)
    made = image(store, 1)

    def at_most_20_000(handler: servers.RegistryHandler) -> None:
        too_large = int(handler.headers["Content-Length"]) > 20_000
        (servers.status(413) if too_large else rightly)(handler)

    there.faults["PUT upload"] = [at_most_20_000] * 2
    pushed(store, made, there)

    assert uploaded(there, made)
    assert there.asked("PATCH")


def test_chunks_are_as_large_as_the_registry_demands(store: Store, there: RegistryState) -> None:
    made = image(store, 1)

    def demand(handler: servers.RegistryHandler) -> None:
        handler.read_body()
        number = str(next(there.numbers))
        there.uploads[number] = servers.Upload()
        place = f"/v2/torch/cpu/blobs/uploads/{number}-0"
        handler.reply(202, headers={"Location": place, "OCI-Chunk-Min-Length": "30000"})

    there.faults["POST uploads"] = [demand] * 2  # the layer's upload and the configuration's
    pushed(store, made, there)
    lengths = [int(h["content-length"]) for verb, _, h in there.requests if verb == "PATCH"]

    assert uploaded(there, made)
    assert 30_000 == max(lengths)


def test_a_registry_that_keeps_another_digest_is_refused(
    store: Store, there: RegistryState
) -> None:
    def wrong(handler: servers.RegistryHandler) -> None:
        handler.read_body()
        handler.reply(201, headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"})

    there.faults["PUT upload"] = [wrong, wrong]
    with pytest.raises(RegistryError, match="kept something else"):
        pushed(store, image(store, 1), there)

    assert not there.manifests["torch/cpu"]


def test_a_blob_that_the_disk_has_changed_is_not_pushed(store: Store, there: RegistryState) -> None:
    made = image(store, 1)
    path = store.blob(made.layers[0].digest)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    with pytest.raises(ArchiveError, match="not what it was: l1"):
        pushed(store, made, there)
    assert not there.manifests["torch/cpu"]


@pytest.mark.parametrize("victim", ["layer", "config", "manifest"])
def test_bytes_that_are_not_those_of_their_digest_are_refused(
    victim: str, store: Store, elsewhere: Store, there: RegistryState
) -> None:
    made = image(store, 1, 2)
    pushed(store, made, there)
    have = there.blobs["torch/cpu"]
    if victim == "manifest":
        kind, data = there.manifests["torch/cpu"][f"sha256:{made.digest}"]
        there.manifests["torch/cpu"][f"sha256:{made.digest}"] = (kind, data + b" ")
        asked = target(there).at(f"sha256:{made.digest}")
    else:
        name = made.config if victim == "config" else made.layers[1].digest
        data = have[f"sha256:{name}"]
        have[f"sha256:{name}"] = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
        asked = target(there, tag="cpu")
    named = {"layer": "l2", "config": "the configuration", "manifest": "manifest"}[victim]

    with pytest.raises(RegistryError, match=named):
        pull(elsewhere, asked, environ())
    assert not list((elsewhere.root / "images").glob("*"))
    assert not elsewhere.has(made.digest)


def lie(there: RegistryState, made: Image, part: str, **said: object) -> None:
    """Let the manifest of an image that was pushed describe its `part` otherwise."""
    kind, data = there.manifests["torch/cpu"][f"sha256:{made.digest}"]
    manifest = json.loads(data)
    (manifest["config"] if part == "config" else manifest["layers"][0]).update(said)
    there.manifests["torch/cpu"]["cpu"] = (kind, json.dumps(manifest).encode())


READERS: dict[str, Callable[[Project, str], object]] = {
    "pull": exchange.pull,
    "verify": exchange.verify,
    "check-contract": read_image,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("part", ["config", "layer"])
def test_a_digest_that_is_the_path_of_a_file_writes_to_none(
    store: Store, tmp_path: Path, there: RegistryState, reader: str, part: str
) -> None:
    """It has the 64 characters of a hash; size and permissions are of what would be overwritten."""
    made = image(store, 1)
    pushed(store, made, there)
    project = open_project(ROOT, environ(TORCHKILN_HOME=str(tmp_path / "elsewhere")))

    with victim() as own:
        lie(there, made, part, digest=f"sha256:{own.name}", size=1)
        with pytest.raises(
            RegistryError, match=r"describes (the configuration|layer 1) badly"
        ) as caught:
            READERS[reader](project, f"{there.address}/torch/cpu:cpu")
        assert own.is_unharmed
    assert "invalid digest" in caught.value.why


BAD_DIGESTS = [
    "latest",
    "sha256:",
    f"sha256:{'0' * 63}",
    f"sha256:{'A' * 64}",
    f"sha256:{'0' * 64}\n",
    f"sha512:{'0' * 128}",
    "sha256:" + "\N{ARABIC-INDIC DIGIT ZERO}" * 64,
    None,
    ["sha256"],
]


@pytest.mark.parametrize("part", ["config", "layer"])
@pytest.mark.parametrize(
    "said",
    [
        *({"digest": one} for one in BAD_DIGESTS),
        *({"size": one} for one in (-1, True, 1.5, "1", None)),
        {"annotations": ["io.torchkiln.layer"]},
    ],
    ids=str,
)
def test_a_descriptor_that_has_not_its_form_is_refused(
    store: Store, elsewhere: Store, there: RegistryState, part: str, said: dict[str, object]
) -> None:
    made = image(store, 1)
    pushed(store, made, there)
    lie(there, made, part, **said)

    with pytest.raises(RegistryError, match=r"describes (the configuration|layer 1) badly"):
        pulled(elsewhere, there)
    assert [] == list(elsewhere.partials.glob("*"))


@pytest.mark.parametrize("digest", BAD_DIGESTS, ids=str)
def test_an_index_that_names_no_digest_is_refused(
    store: Store, elsewhere: Store, there: RegistryState, digest: object
) -> None:
    """A tag there would be asked for, and come unchecked."""
    made = image(store, 1)
    pushed(store, made, there, tag="latest")
    platform = {"os": "linux", "architecture": "amd64"}
    entry = {"digest": digest, "size": 1, "platform": platform}
    kind = "application/vnd.oci.image.index.v1+json"
    body = json.dumps({"mediaType": kind, "manifests": [entry]}).encode()
    there.manifests["torch/cpu"]["cpu"] = (kind, body)

    with pytest.raises(RegistryError, match="invalid answer of the registry, the index"):
        pulled(elsewhere, there)


def test_a_configuration_that_fills_the_memory_is_refused_before_it_comes(
    store: Store, elsewhere: Store, there: RegistryState
) -> None:
    made = image(store, 1)
    pushed(store, made, there)
    lie(there, made, "config", size=1 << 34)

    with pytest.raises(RegistryError, match="configuration of the image is too large"):
        pulled(elsewhere, there)


def test_a_link_in_the_place_of_a_partial_file_is_refused(
    store: Store, elsewhere: Store, there: RegistryState
) -> None:
    made = image(store, 1)
    pushed(store, made, there)
    elsewhere.partials.mkdir(parents=True)
    place = elsewhere.partial(made.layers[0].digest)

    with victim() as own:
        place.symlink_to(own.path)
        with pytest.raises(StoreError, match="through a symbolic link in the store") as caught:
            pulled(elsewhere, there)
        assert own.is_unharmed
    assert f"rm {place}" == caught.value.hint


def test_a_layer_that_does_not_hold_what_the_configuration_says_is_refused(
    store: Store, elsewhere: Store, there: RegistryState
) -> None:
    """The image of somebody who signed one content and shipped another."""
    made = image(store, 1, 2)
    config = json.loads(store.blob(made.config).read_bytes())
    config["rootfs"]["diff_ids"][1] = f"sha256:{'1' * 64}"
    forged = json.dumps(config).encode()
    manifest = json.loads(store.blob(made.digest).read_bytes())
    manifest["config"] |= {
        "digest": f"sha256:{hashlib.sha256(forged).hexdigest()}",
        "size": len(forged),
    }
    pushed(store, made, there)
    there.blobs["torch/cpu"][manifest["config"]["digest"]] = forged
    kind = manifest["mediaType"]
    there.manifests["torch/cpu"]["cpu"] = (kind, json.dumps(manifest).encode())

    back = pulled(elsewhere, there).image
    with pytest.raises(ArchiveError, match="does not hold what its image says: l2"):
        check_layers(elsewhere, back)


def test_the_layers_of_an_honest_image_are_what_it_says(
    store: Store, elsewhere: Store, there: RegistryState
) -> None:
    pushed(store, image(store, 1, 2), there)
    back = pulled(elsewhere, there).image
    check_layers(elsewhere, back)

    path = elsewhere.blob(back.layers[0].digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    shutil.rmtree(elsewhere.root / "records/unpacked")
    with pytest.raises(ArchiveError, match="not what it was: l1"):
        check_layers(elsewhere, back)


@pytest.mark.parametrize(
    ("packed", "said", "size"),
    [
        (1000, 5000, 5000),
        (1000, 1000, 1000),
        (5_000_000_000, 800_000_000, 800_000_000 + (1 << 32)),
        (9_000_000_000, 800_000_000, 800_000_000 + (2 << 32)),
    ],
)
def test_the_size_of_a_tar_is_read_from_the_end_of_its_blob(
    packed: int, said: int, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "blob"
    with path.open("wb") as stream:
        stream.write(b"\x1f\x8b")
        stream.seek(packed - 4)
        stream.write(said.to_bytes(4, "little"))
    assert size == unpacked_size(path)


def test_a_content_tag_is_never_moved(store: Store, there: RegistryState) -> None:
    one, two = image(store, 1), image(store, 2)
    fixed = "2.0.1-cu117-py311-bookworm-r0123456789ab"
    pushed(store, one, there, tag=fixed)
    pushed(store, one, there, tag=fixed)
    before = there.received
    with pytest.raises(RegistryError, match="never moved") as caught:
        pushed(store, two, there, tag=fixed)

    assert f"sha256:{one.digest}" in caught.value.why
    assert before == there.received, "refused before anything was sent"
    assert pushed(store, two, there, tag="cu117").tags == ("cu117",), "other tags move"


def test_tokens_are_fetched_with_credentials_and_renewed_in_mid_upload(
    store: Store, there: RegistryState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = base64.b64encode(b"kim:open sesame").decode()
    there.tokens, there.user = True, f"Basic {secret}"
    config = tmp_path / "docker/config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"auths": {there.address: {"auth": secret}}}))
    made = image(store, 1)

    def expire(handler: servers.RegistryHandler) -> None:
        there.revoked = 1  # the first token is taken back
        servers.status(401)(handler)

    there.faults["PATCH upload"] = [expire]
    sent = push(store, made, target(there), ["cpu"], environ(DOCKER_CONFIG=str(config.parent)))

    assert sent.reference.digest == f"sha256:{made.digest}"
    assert uploaded(there, made)
    asked = there.asked("GET", "/token")
    assert len(asked) >= 2
    assert "repository%3Atorch%2Fcpu%3Apull%2Cpush" in asked[0]
    shown = capsys.readouterr()
    assert "sesame" not in shown.out + shown.err
    assert secret not in shown.out + shown.err


def test_a_token_is_renewed_before_it_ends(store: Store, there: RegistryState) -> None:
    there.tokens, there.life = True, 1
    made = image(store, 1, 2)

    def slowly(handler: servers.RegistryHandler) -> None:
        time.sleep(1)
        handler.answer()

    there.faults["PATCH upload"] = [slowly]
    pushed(store, made, there)

    assert uploaded(there, made)
    assert len(there.asked("GET", "/token")) >= 2


def test_wrong_credentials_are_refused_with_the_way_to_others(
    store: Store, there: RegistryState
) -> None:
    there.tokens, there.user = True, "Basic somebody"
    with pytest.raises(RegistryError) as caught:
        pushed(store, image(store, 1), there)

    assert f"docker login {there.address}" == caught.value.hint


def test_a_credential_helper_is_asked(store: Store, there: RegistryState, tmp_path: Path) -> None:
    secret = base64.b64encode(b"kim:from a helper").decode()
    there.tokens, there.user = True, f"Basic {secret}"
    helper = tmp_path / "docker-credential-fake"
    helper.write_text(
        "#!/bin/sh\nread -r server\n"
        f'[ "$1 $server" = "get {there.address}" ] || '
        '{ echo "credentials not found in native keychain"; exit 1; }\n'
        """echo '{"Username": "kim", "Secret": "from a helper"}'\n"""
    )
    helper.chmod(stat.S_IRWXU)
    (tmp_path / "config.json").write_text('{"credsStore": "fake"}')
    path = f"{tmp_path}:{os.environ['PATH']}"
    made = image(store, 1)
    push(store, made, target(there), ["cpu"], environ(DOCKER_CONFIG=str(tmp_path), PATH=path))

    assert uploaded(there, made)


def test_a_mirror_is_asked_first_and_a_dead_one_is_passed_over(
    store: Store, elsewhere: Store, there: RegistryState, tmp_path: Path
) -> None:
    made = image(store, 1)
    with registry() as mirror:
        pushed(store, made, mirror, "cache/torch/cpu")
        pushed(store, made, there)
        setting = f"{there.address}={mirror.address}/cache"
        asked = target(there, tag="cpu")
        back = pull(elsewhere, asked, environ(TORCHKILN_REGISTRY_MIRRORS=setting))
        assert made.digest == back.image.digest
        assert mirror.asked("GET", "/blobs/")
        assert not there.asked("GET", "/blobs/")
    setting = f"{there.address}={there.address}/nothing"
    third = Store(tmp_path / "third")
    again = pull(third, asked, environ(TORCHKILN_REGISTRY_MIRRORS=setting))

    assert made.digest == again.image.digest


def test_the_image_of_this_platform_is_taken_from_an_index(
    store: Store, elsewhere: Store, there: RegistryState
) -> None:
    made = image(store, 1)
    pushed(store, made, there)
    kind, data = there.manifests["torch/cpu"]["cpu"]
    entry = {"mediaType": kind, "digest": f"sha256:{made.digest}", "size": len(data)}
    other = {**entry, "digest": f"sha256:{'2' * 64}"}
    index: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {**other, "platform": {"os": "unknown", "architecture": "unknown"}},
            {**other, "platform": {"os": "linux", "architecture": "arm64"}},
            {**entry, "platform": {"os": "linux", "architecture": "amd64"}},
        ],
    }
    there.manifests["torch/cpu"]["multi"] = (index["mediaType"], json.dumps(index).encode())

    assert made.digest == pulled(elsewhere, there, "multi").image.digest
    del index["manifests"][2]
    there.manifests["torch/cpu"]["multi"] = (index["mediaType"], json.dumps(index).encode())
    with pytest.raises(RegistryError, match="no image for linux/amd64"):
        pulled(elsewhere, there, "multi")


@pytest.mark.parametrize("way", ["SSL_CERT_FILE", "certs.d"])
def test_a_private_authority_is_known_by_the_environment_and_by_dockers_folder(
    way: str, store: Store, tmp_path: Path
) -> None:
    made = image(store, 1)
    trusted = authority(tmp_path)
    with registry(tls=trusted.server) as there:
        if way == "certs.d":
            folder = tmp_path / ".docker/certs.d" / there.address
            folder.mkdir(parents=True)
            shutil.copy(trusted.path, folder / "ca.crt")
            settings = {"HOME": str(tmp_path)}
        else:
            settings = {"SSL_CERT_FILE": str(trusted.path)}
        push(store, made, target(there), ["cpu"], environ(**settings))
        assert uploaded(there, made)

        there.requests.clear()
        with pytest.raises(RegistryError):
            push(store, made, target(there), ["cpu"], environ(PIP_RETRIES="0"))
        assert not there.requests, "an authority that nobody knows is not spoken to"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open any folder")
def test_a_home_that_is_closed_to_us_has_no_authorities(store: Store, tmp_path: Path) -> None:
    """As after `sudo -u`, which may leave HOME as it was."""
    made = image(store, 1)
    home = tmp_path / "home"
    home.mkdir(mode=0o000)
    with registry() as there:
        push(store, made, target(there), ["cpu"], environ(HOME=str(home)))
        assert uploaded(there, made)
    home.chmod(0o700)


def test_http_is_spoken_to_this_machine_alone(store: Store) -> None:
    """The name is one that never resolves (RFC 6761)."""
    place = Reference(registry="registry.invalid:5000", repository="x")
    made = image(store, 1)
    with pytest.raises(RegistryError) as caught:
        push(store, made, place, ["x"], environ())
    assert "https://registry.invalid:5000" in caught.value.why
    with pytest.raises(RegistryError) as caught:
        push(store, made, place, ["x"], environ(), plain=True)
    assert "http://registry.invalid:5000" in caught.value.why


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("torchkiln:cpu", "no registry"),
        ("library/torch", "no registry"),
        ("ghcr.io/Torch", "no name of a repository"),
        ("ghcr.io/a//b", "no name of a repository"),
        ("ghcr.io/a:", "no tag"),
        ("ghcr.io/a:b/c", "no tag"),
        ("ghcr.io/a@sha256:12", "no sha256 digest"),
        ("ghcr.io/a@", "no sha256 digest"),
    ],
)
def test_a_bad_name_is_refused_with_the_reason(text: str, fault: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse(text)
    assert fault in caught.value.why


@pytest.mark.parametrize(
    "text",
    [
        "ghcr.io/org/torch",
        "localhost/torch:cpu",
        "localhost:5000/a/b/c:2.0.1-cu117",
        f"127.0.0.1:5000/a@sha256:{'a' * 64}",
        f"registry.example:5000/a_b/c-d:x@sha256:{'a' * 64}",
        "[::1]:5000/x:y",
    ],
)
def test_a_name_is_printed_as_it_was_typed(text: str) -> None:
    assert text == str(parse(text))


def test_an_error_shows_no_secret(store: Store, there: RegistryState, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"x": {"auth": "secret!!"}}, ')
    there.tokens = True
    made = image(store, 1)
    with pytest.raises(KilnError) as caught:
        push(store, made, target(there), ["x"], environ(DOCKER_CONFIG=str(tmp_path)))
    assert "secret!!" not in str(caught.value)
    assert "config.json" in str(caught.value)
