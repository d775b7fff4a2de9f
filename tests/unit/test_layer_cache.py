"""Layers that a registry keeps: honest ones are taken, all others are told and left."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import registry_server as servers
from image_archives import layer as stored
from registry_server import RegistryState, registry
from victims import victim
from wheels import CODE, SITE, Draft

from torchkiln import cache_rules, catalog, pipeline
from torchkiln.engine import kiln
from torchkiln.engine.job import Job, known_layer, layer_key, needed_inputs
from torchkiln.errors import ArchiveError, RegistryError
from torchkiln.layer import MTIME, Entry, complete
from torchkiln.layer_cache import Caches, caches, offer, take
from torchkiln.listing import DIRECTORY, LayerListing, Member
from torchkiln.lockfile import VariantLock
from torchkiln.plan import plan_layers
from torchkiln.registry.cached import tag
from torchkiln.registry.reference import Reference
from torchkiln.store import Store
from torchkiln.wheel import read_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.layer import Layer

ROOT = Path(__file__).parents[2]
REPOSITORY = "torch/cpu"
PYC = f"{SITE}/demo/__pycache__/__init__.cpython-311.pyc"
BYTECODE = b"\xa7\r\r\n\x01\0\0\0" + bytes(16)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses."""
    monkeypatch.setattr("torchkiln.transport.random.uniform", lambda *_: 0.001)


@pytest.fixture
def there() -> Iterator[RegistryState]:
    with registry() as state:
        yield state


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """What builds one layer of one small wheel, in the store of one worker."""
    project = pipeline.open_project(ROOT, {"TORCHKILN_HOME": str(tmp_path / "a")})
    real = pipeline.job(project, catalog.select(project.catalog, cpu=True, cuda=None))
    draft = Draft()
    data = draft.pack()
    real.store.put(data)
    lock = VariantLock(variant="cpu", inputs="", python="3.11", wheels=(draft.locked(data),))
    return replace(real, lock=lock)


@pytest.fixture
def elsewhere(tmp_path: Path, job: Job) -> Job:
    """The same for another worker, whose store is empty."""
    return replace(job, store=Store(tmp_path / "b"))


def honest(job: Job) -> dict[str, Entry]:
    """Return what a build of the wheel's layer writes."""
    (wheel,) = job.lock.wheels
    entries = read_wheel(job.store.blob(wheel.sha256), wheel, job.venv).entries
    return {one.path: one for one in (*entries, Entry.text(PYC, BYTECODE))}


def key(job: Job) -> str:
    return layer_key(job, plan_layers(job.lock)[0])


def environ() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def place(there: RegistryState) -> Reference:
    return Reference(registry=there.address, repository=REPOSITORY)


def offered(job: Job, there: RegistryState, *entries: Entry) -> Layer:
    """Offer a layer of these entries as that of the job's wheel."""
    made = stored(job.store, "wheels", *entries)
    job.store.write_record("layers", key(job), vars(made))
    there.blobs[REPOSITORY][f"sha256:{made.digest}"] = job.store.blob(made.digest).read_bytes()
    offer(job, place(there), environ(), plain=False)
    return made


def taken(job: Job, *states: RegistryState) -> Layer | None:
    """Return the layer of the job's wheel after a look into the caches."""
    take(job, Caches(places=tuple(place(one) for one in states)), environ())
    return known_layer(job.store, key(job))


def test_an_honest_layer_is_taken_as_a_build_would_have_made_it(
    job: Job, elsewhere: Job, there: RegistryState, capsys: pytest.CaptureFixture[str]
) -> None:
    made = offered(job, there, *honest(job).values())

    assert made == taken(elsewhere, there)
    assert job.store.read_record("layers", key(job)) == elsewhere.store.read_record(
        "layers", key(job)
    )
    assert "1 of 2 layers are from a cache" in capsys.readouterr().err
    assert [] == needed_inputs(elsewhere)[0]
    assert elsewhere.base_lock.debs == tuple(needed_inputs(elsewhere)[1])


def test_what_is_offered_already_is_not_put_again(job: Job, there: RegistryState) -> None:
    offered(job, there, *honest(job).values())
    before = len(there.asked("PUT"))
    offer(job, place(there), environ(), plain=False)
    assert before == len(there.asked("PUT"))


def test_a_registry_that_takes_no_such_manifests_costs_a_warning(
    job: Job, there: RegistryState, capsys: pytest.CaptureFixture[str]
) -> None:
    there.faults["PUT manifest"] = [servers.status(400, "MANIFEST_INVALID")]
    offered(job, there, *honest(job).values())
    assert "warning: " in capsys.readouterr().err
    assert tag(key(job)) not in there.manifests[REPOSITORY]


def test_what_is_there_is_not_asked_for(job: Job, there: RegistryState) -> None:
    offered(job, there, *honest(job).values())
    there.requests.clear()
    taken(job, there)
    assert [] == [path for path in there.asked("GET", "cache-") if tag(key(job)) in path]


FORGERIES = {
    "one more file": ([Entry.text(f"{SITE}/evil.pth", b"import os")], "belongs to no package"),
    "other code": ([Entry.text(f"{SITE}/demo/__init__.py", b"0")], "other bytes than RECORD says"),
    "a file outside": ([Entry.text("etc/ld.so.preload", b"/evil.so")], "brings a file there"),
    "a folder outside": ([Entry.directory("srv")], "brings a folder there"),
    "a link": ([Entry.link(f"{SITE}/demo/link", "/etc")], "brings a symbolic link there"),
    "another mode": (
        [Entry.text(f"{SITE}/demo/__init__.py", CODE, mode=0o4755)],
        "has mode 4755",
    ),
    "bytecode without source": (
        [Entry.text(f"{SITE}/demo/__pycache__/evil.cpython-311.pyc", BYTECODE)],
        "has no source",
    ),
    "bytecode in another place": ([Entry.text(f"{SITE}/x/demo.pyc", BYTECODE)], "has no source"),
    "bytecode for another Python": (
        [Entry.text(f"{SITE}/demo/__pycache__/__init__.cpython-399.pyc", BYTECODE)],
        "is not where bytecode belongs",
    ),
    "another package": (
        [
            Entry.text(f"{SITE}/evil-1.0.dist-info/METADATA", b"Name: evil\nVersion: 1.0\n"),
            Entry.text(f"{SITE}/evil-1.0.dist-info/RECORD", b"evil-1.0.dist-info/METADATA,,\n"),
        ],
        "evil: is not in the lock",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_layer_that_no_build_makes_is_refused_though_its_digest_is_right(
    job: Job,
    elsewhere: Job,
    there: RegistryState,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    added, text = FORGERIES[name]
    offered(job, there, *(honest(job) | {one.path: one for one in added}).values())

    assert taken(elsewhere, there) is None
    told = capsys.readouterr().err
    assert f"a cached layer is not `wheels`: {place(there).name}:{tag(key(job))}" in told
    assert text in told


def test_a_digest_that_is_the_path_of_a_file_writes_to_none(
    job: Job, elsewhere: Job, there: RegistryState, capsys: pytest.CaptureFixture[str]
) -> None:
    offered(job, there, *honest(job).values())
    kind, data = there.manifests[REPOSITORY][tag(key(job))]
    manifest = json.loads(data)

    with victim() as own:
        manifest["layers"][0] |= {"digest": f"sha256:{own.name}", "size": 1}
        there.manifests[REPOSITORY][tag(key(job))] = (kind, json.dumps(manifest).encode())
        assert taken(elsewhere, there) is None
        assert own.is_unharmed
    assert "the manifest describes wheels badly" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["digest", "diff_id", "size", "unpacked", "name"])
def test_a_record_that_has_not_its_form_counts_for_none(job: Job, field: str) -> None:
    """The layer is made again; before, its words were names of files."""
    made = stored(job.store, "wheels", *honest(job).values())
    record = dict(vars(made))
    job.store.write_record("layers", key(job), record)
    assert made == known_layer(job.store, key(job))

    job.store.write_record("layers", key(job), record | {field: "../../../x"})
    found = known_layer(job.store, key(job))
    assert (found is None) == (field != "name")
    job.store.write_record("layers", key(job), {k: v for k, v in record.items() if k != field})
    assert known_layer(job.store, key(job)) is None


def test_a_layer_without_the_wheel_or_with_another_version_is_refused(
    job: Job, elsewhere: Job, there: RegistryState, capsys: pytest.CaptureFixture[str]
) -> None:
    offered(job, there, Entry.directory("opt/venv"))
    assert taken(elsewhere, there) is None
    assert "demo: is installed 0 times" in capsys.readouterr().err

    other = Draft(version="2.0")
    data = other.pack()
    wheel = other.locked(data)
    job.store.put(data)
    entries = read_wheel(job.store.blob(wheel.sha256), wheel, job.venv).entries
    offered(job, there, *entries)
    assert taken(elsewhere, there) is None
    assert "demo: has version 2.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("io.torchkiln.key", "f" * 64),
        ("io.torchkiln.diff-id", f"sha256:{'0' * 64}"),
        ("io.torchkiln.unpacked", "1"),
        ("io.torchkiln.cache", "2"),
        ("io.torchkiln.codec", "zstd"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(  # noqa: PLR0917 - fixtures
    job: Job,
    elsewhere: Job,
    there: RegistryState,
    name: str,
    value: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offered(job, there, *honest(job).values())
    document = manifest(there, job)
    document["annotations"][name] = value
    put(there, job, document)

    assert taken(elsewhere, there) is None
    assert f"{name}: it says {value}" in capsys.readouterr().err


@pytest.mark.parametrize("layers", [[], "x", [{}], [{"digest": "md5:0", "size": 1}]])
def test_a_manifest_that_names_no_layer_is_refused(
    job: Job, elsewhere: Job, there: RegistryState, layers: object
) -> None:
    offered(job, there, *honest(job).values())
    put(there, job, manifest(there, job) | {"layers": layers})
    assert taken(elsewhere, there) is None


def manifest(there: RegistryState, job: Job) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(there.manifests[REPOSITORY][tag(key(job))][1])
    return document


def put(there: RegistryState, job: Job, document: dict[str, Any]) -> None:
    kind, _ = there.manifests[REPOSITORY][tag(key(job))]
    there.manifests[REPOSITORY][tag(key(job))] = (kind, json.dumps(document).encode())


def test_bytes_that_are_not_those_of_their_digest_are_refused(
    job: Job, elsewhere: Job, there: RegistryState, capsys: pytest.CaptureFixture[str]
) -> None:
    made = offered(job, there, *honest(job).values())
    data = bytearray(there.blobs[REPOSITORY][f"sha256:{made.digest}"])
    data[len(data) // 2] ^= 1
    there.blobs[REPOSITORY][f"sha256:{made.digest}"] = bytes(data)

    assert taken(elsewhere, there) is None
    assert "warning: the registry has other bytes than the digest of wheels" in (
        capsys.readouterr().err
    )


def test_a_blob_that_is_no_layer_is_refused(
    job: Job, elsewhere: Job, there: RegistryState, capsys: pytest.CaptureFixture[str]
) -> None:
    offered(job, there, *honest(job).values())
    document, data = manifest(there, job), b"\x1f\x8b\x08\x00 no layer"
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    there.blobs[REPOSITORY][digest] = data
    document["layers"] = [{"digest": digest, "size": len(data)}]
    put(there, job, document)

    assert taken(elsewhere, there) is None
    assert "a layer is broken" in capsys.readouterr().err


def test_the_next_cache_is_asked_where_one_is_down_or_has_nothing_good(
    job: Job, elsewhere: Job, there: RegistryState, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {f"{SITE}/demo/__init__.py": Entry.text(f"{SITE}/demo/__init__.py", b"0")}
    with registry() as hostile, registry() as empty:
        offered(job, hostile, *(honest(job) | bad).values())
        made = offered(job, there, *honest(job).values())
        down = RegistryState(address="localhost:1")
        assert made == taken(elsewhere, down, empty, hostile, there)
    told = capsys.readouterr().err
    assert "warning: cannot use the cache localhost:1/torch/cpu" in told
    assert "other bytes than RECORD says" in told


def test_a_cache_that_is_no_reference_is_a_mistake() -> None:
    assert caches([], plain=False) is None
    with pytest.raises(RegistryError, match="no name for an image"):
        caches(["nonsense"], plain=False)


def test_a_new_layer_may_not_claim_a_path_of_one_that_was_taken(
    job: Job, elsewhere: Job, there: RegistryState
) -> None:
    """Also where the wheels of the old one were never fetched."""
    entries = honest(job)
    offered(job, there, *entries.values())
    taken(elsewhere, there)
    claims = kiln._claims(elsewhere, plan_layers(job.lock)[0])

    complete([*claims, *entries.values()])
    path = f"{SITE}/demo/__init__.py"
    with pytest.raises(ArchiveError, match="two packages claim one path"):
        complete([*claims, Entry.text(path, b"another", owner="other.whl")])


def base(content: str) -> LayerListing:
    """Return a Debian of one package of one file, whose md5sums say `right`."""
    info = "var/lib/dpkg/info"
    texts = {
        f"{info}/demo.list": "/.\n/usr\n/usr/bin\n/usr/bin/demo\n",
        f"{info}/demo.md5sums": f"{md5('right')}  usr/bin/demo\n",
        "var/lib/dpkg/status": (
            "Package: demo\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n"
        ),
        "usr/bin/demo": content,
    }
    entries = complete(Entry.text(path, text.encode()) for path, text in texts.items())
    members = [
        Member(path=one.path, mode=0o755, mtime=MTIME, kind=DIRECTORY)
        if one.is_directory
        else Member(
            path=one.path,
            mtime=MTIME,
            size=one.size,
            sha256=one.sha256,
            data=texts[one.path].encode(),
        )
        for one in entries
    ]
    return LayerListing(
        name="debian",
        members=tuple(members),
        digest="",
        diff_id="",
        size=0,
        gzip_header=b"\x1f\x8b\x08\x00" + bytes(4),
    )


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def test_a_base_is_the_locked_packages_with_their_bytes(job: Job) -> None:
    deb = replace(job.base_lock.debs[0], name="demo", version="1", architecture="amd64")
    lock = replace(job.base_lock, debs=(deb,))

    right = cache_rules.base_layer_faults(base("right"), lock, {"usr/bin/demo": md5("right")})
    wrong = cache_rules.base_layer_faults(base("wrong"), lock, {"usr/bin/demo": md5("wrong")})
    assert [] == right
    assert ["/usr/bin/demo: has other bytes than its package"] == wrong
    newer = replace(lock, debs=(replace(deb, version="2"),))
    assert cache_rules.base_layer_faults(base("right"), newer, {})
