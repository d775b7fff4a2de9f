"""What `gc` keeps and takes, in a small store beside the real locks of this clone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from image_archives import CONFIG, image, layer
from sandboxes import PYTHONPATH

from torchkiln import gc, pipeline
from torchkiln.base import base_key
from torchkiln.claims import Keep
from torchkiln.engine.job import layer_key
from torchkiln.errors import LockError
from torchkiln.image import Image, write_image
from torchkiln.layer import Entry
from torchkiln.lockfile import read_environment_lock
from torchkiln.pipeline import Project
from torchkiln.plan import plan_layers
from torchkiln.roots import roots
from torchkiln.store import remove_tree
from torchkiln.stored import Thing, room
from torchkiln.tree import image_tree

PROJECT = Path(__file__).resolve().parents[2]
NONE = Keep(unused=0)
WHEEL, DEB = b"PK\x03\x04 wheel", b"!<arch>\ndeb"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return pipeline.open_project(PROJECT, {"TORCHKILN_HOME": str(tmp_path / "store")})


def locked_image(project: Project) -> Image:
    """Put the CPU image into the store, with small layers under the keys of its real ones."""
    job = pipeline.job(project, project.catalog.variant("cpu"))
    keys = [base_key(job.base_lock), *(layer_key(job, group) for group in plan_layers(job.lock))]
    layers = []
    for key in keys:
        layers.append(layer(project.store, key, Entry.text(key, key.encode())))
        project.store.write_record("layers", key, vars(layers[-1]))
    own = layer(project.store, "torchkiln", Entry.text("own", b"own"))
    return write_image(project.store, "cpu", [*layers, own], CONFIG)


def put_input(project: Project, number: int = 0) -> str:
    """Put something under the name of a locked wheel, which is as good as the wheel here."""
    wheel = pipeline.job(project, project.catalog.variant("cpu")).lock.wheels[number]
    path = project.store.blob(wheel.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(WHEEL)
    return wheel.sha256


def going(project: Project, keep: Keep = NONE) -> set[str]:
    """Return the paths, below the store, of what would go."""
    done = gc.plan(project, keep)
    return {str(thing.path.relative_to(done.root)) for thing in done.going}


def every_path(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def make_old(root: Path, days: float) -> None:
    before = time.time() - days * 86400
    for path in root.rglob("*"):
        os.utime(path, (before, before), follow_symlinks=False)


def test_what_the_locks_need_is_kept_whole(project: Project) -> None:
    made = locked_image(project)
    put_input(project)
    image_tree(project.store, made.layers)

    assert set() == going(project)


def test_the_wheels_of_a_kernel_are_inputs_too(project: Project) -> None:
    lock = read_environment_lock(PROJECT, project.catalog, project.catalog.variant("cpu"))
    path = project.store.blob(lock.wheel("ipykernel").sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(WHEEL)

    assert set() == going(project)


def test_packages_of_conda_stay_while_a_conda_lock_names_them(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "project/envs/cpu").mkdir(parents=True)
    (tmp_path / "project/envs/cpu/conda-linux-64.lock").write_text(
        "@EXPLICIT\nhttps://host/conda-forge/linux-64/numpy-2.4.6-py311_0.conda#sha256:00\n"
    )
    cache = project.store.root / "conda/packages"
    for name in ("numpy-2.4.6-py311_0", "numpy-2.4.5-py311_0"):
        (cache / name / "info").mkdir(parents=True)
        (cache / f"{name}.lock").write_text("")
    (cache / ".cache.lock").write_text("")

    gone = going(replace(project, root=tmp_path / "project"))

    expected = {"numpy-2.4.5-py311_0", "numpy-2.4.5-py311_0.lock"}
    assert {f"conda/packages/{name}" for name in expected} == gone
    assert set() == going(replace(project, root=tmp_path / "project"), Keep(unused=0, inputs=True))


def test_layers_of_a_lock_whose_image_is_not_done_are_kept(project: Project) -> None:
    made = locked_image(project)
    image_tree(project.store, made.layers[:1])
    remove_tree(made.layout)

    gone = going(project)

    assert not {f"blobs/sha256/{one.digest}" for one in made.layers[:-1]} & gone
    assert f"trees/{made.layers[0].diff_id}" not in gone
    assert not any(path.startswith("records/") for path in gone)


def test_what_no_lock_names_goes_whole(project: Project) -> None:
    kept = locked_image(project)
    before = every_path(project.store.root)
    other = image(project.store, "a", "b")
    image_tree(project.store, other.layers)
    (project.store.root / "reports" / other.digest).mkdir(parents=True)
    strays = {f"blobs/sha256/{project.store.put(data)}" for data in (WHEEL, DEB, b"x\t4\ncode")}
    project.store.write_record("layers", "0" * 64, vars(other.layers[0]))

    gone = going(project)
    gc.remove(project, NONE, wait=False)

    assert strays | {f"images/{other.layout.name}", f"reports/{other.digest}"} < gone
    new = every_path(project.store.root) - before
    assert {path for path in new if path.split("/")[0] not in {"locks", "tmp"}} == {
        "reports",
        "trees",
    }
    assert before <= every_path(project.store.root)
    assert kept.layout.is_dir()


def test_a_look_changes_nothing(project: Project) -> None:
    image(project.store, "a")
    before = every_path(project.store.root)

    assert going(project)
    assert before == every_path(project.store.root)


def test_an_image_of_a_lock_is_kept_by_its_layers_not_by_its_name(project: Project) -> None:
    """Without the record of one layer the image would be made anew, so it goes."""
    made = locked_image(project)
    next((project.store.root / "records/layers").iterdir()).unlink()

    assert f"images/{made.layout.name}" in going(project)


def test_what_is_younger_than_the_days_is_kept(project: Project) -> None:
    image(project.store, "a")
    project.store.put(WHEEL)
    make_old(project.store.root, days=3)

    assert set() == going(project, Keep(days=4, unused=0))
    assert going(project, Keep(days=2, unused=0)) == going(project) != set()


def test_an_image_that_was_asked_for_lately_is_kept_with_all_it_needs(project: Project) -> None:
    first = image(project.store, "a")
    image_tree(project.store, first.layers)
    other = image(project.store, "b")
    make_old(project.store.root, days=30)
    write_image(project.store, "cpu", first.layers, CONFIG)

    gone = going(project, Keep(days=2, unused=0))

    assert {path.name for path in project.store.trees.iterdir()} & {
        path.rpartition("/")[2] for path in gone
    } == set()
    assert not {
        f"blobs/sha256/{path.name}" for path in (first.layout / "blobs/sha256").iterdir()
    } & (gone)
    assert f"images/{other.layout.name}" in gone


def test_inputs_of_older_locks_are_kept_when_asked(project: Project) -> None:
    wheel, deb = project.store.put(WHEEL), project.store.put(DEB)
    made = image(project.store, "a")

    gone = going(project, Keep(unused=0, inputs=True))

    assert not {f"blobs/sha256/{wheel}", f"blobs/sha256/{deb}"} & gone
    assert f"images/{made.layout.name}" in gone


def test_a_pulled_image_stays_unless_all_are_to_go(project: Project) -> None:
    made = image(project.store, "a")
    blobs = [f"sha256:{path.name}" for path in (made.layout / "blobs/sha256").iterdir()]
    pulled = {"reference": "ghcr.io/o/r:1", "manifest": f"sha256:{made.digest}", "blobs": blobs}
    project.store.write_record("pulled", made.digest, pulled)

    assert set() == going(project)
    assert {f"images/{made.layout.name}", f"records/pulled/{made.digest}.json"} < going(
        project, Keep(unused=0, pulled=False)
    )


def test_a_record_of_a_kind_that_is_not_known_keeps_what_it_names(project: Project) -> None:
    named, other = project.store.put(b"{named}"), project.store.put(b"{other}")
    project.store.write_record("later", "key", {"of": f"sha256:{named}"})

    assert {f"blobs/sha256/{other}"} == going(project)


def test_bytecode_stays_with_its_wheel(project: Project) -> None:
    kept, gone = project.store.put(b"a\t0\n"), project.store.put(b"b\t0\n")
    project.store.write_record("bytecode", "1", {"blob": kept, "wheel": put_input(project)})
    project.store.write_record("bytecode", "2", {"blob": gone, "wheel": "0" * 64})

    assert {f"blobs/sha256/{gone}", "records/bytecode/2.json"} == going(project)


def test_a_download_that_a_lock_still_wants_is_kept(project: Project) -> None:
    folder = project.store.root / "partial"
    folder.mkdir(parents=True)
    (folder / put_input(project)).touch()
    (folder / ("0" * 64)).touch()

    assert {f"partial/{'0' * 64}"} == going(project)


def test_a_report_of_an_image_that_is_in_an_engine_alone_stays(project: Project) -> None:
    (project.store.root / "reports" / ("0" * 64)).mkdir(parents=True)

    assert set() == going(project)


def test_leftovers_of_a_killed_process_go_and_work_in_progress_does_not(project: Project) -> None:
    start(_LEFT, project).communicate()
    with project.store.workspace() as folder:
        gone = going(project)

        assert len(gone) == 2
        assert folder.name not in " ".join(gone)
        gc.remove(project, NONE, wait=False)
        assert folder.is_dir()
    assert [] == list((project.store.root / "tmp").iterdir())


def test_a_lock_that_cannot_be_read_stops_everything(project: Project, tmp_path: Path) -> None:
    lock = tmp_path / "envs/cpu/lock.json"
    lock.parent.mkdir(parents=True)
    lock.write_text("<<<<<<< a conflict")
    broken = Project(
        root=tmp_path, catalog=project.catalog, store=project.store, environ=project.environ
    )

    with pytest.raises(LockError, match=r"what it needs is not known: .*/cpu/lock\.json"):
        roots(broken)


def test_a_file_counts_once_and_goes_with_its_last_name(tmp_path: Path) -> None:
    first, second, third = (Thing(kind="layers", path=tmp_path / name) for name in "123")
    first.path.write_bytes(bytes(1 << 20))
    second.path.hardlink_to(first.path)
    size = first.path.stat().st_blocks * 512

    both = room([first, second], {first, second})
    one = room([first, second], {second})
    third.path.hardlink_to(first.path)
    outside = room([first, second], {first, second})

    assert size == both[first].size == both[first].freed == one[first].size
    assert (0, 0) == (both[second].size, both[second].freed)
    assert 0 == one[first].freed + one[second].freed == outside[first].freed


def start(code: str, project: Project) -> subprocess.Popen[str]:
    """Start Python on `code`, with the store's path as first argument."""
    head = "import os, sys\nfrom pathlib import Path\nfrom torchkiln.store import Store\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), str(project.store.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )


_LEFT = "with Store(Path(sys.argv[1])).workspace(): os.kill(os.getpid(), 9)"
_KILLED = """
    from torchkiln import gc, pipeline, store
    from torchkiln.claims import Keep
    owner, name, count = {point}
    owner = {{"Path": Path, "gc": gc}}[owner]
    calls, real = [], getattr(owner, name)
    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    setattr(owner, name, deadly)
    project = pipeline.open_project(Path({root!r}), {{"TORCHKILN_HOME": sys.argv[1]}})
    gc.remove(project, Keep(unused=0), wait=False)
"""


@pytest.mark.parametrize(
    "point",
    [("Path", "unlink", 2), ("Path", "unlink", 5), ("Path", "rename", 2), ("gc", "remove_tree", 1)],
    ids=str,
)
def test_killed_at_any_point_it_leaves_what_has_a_name_whole(
    project: Project, point: tuple[str, str, int]
) -> None:
    made = locked_image(project)
    tree = image_tree(project.store, made.layers)
    needed = every_path(project.store.root)
    other = image(project.store, "a", "b")
    other_tree = image_tree(project.store, other.layers)
    whole = {other.layout: every_path(other.layout), other_tree: every_path(other_tree)}

    start(_LEFT, project).communicate()

    process = start(_KILLED.format(point=point, root=str(PROJECT)), project)
    process.communicate()

    assert -signal.SIGKILL == process.returncode
    assert needed <= every_path(project.store.root)
    assert all(not path.exists() or names == every_path(path) for path, names in whole.items())
    gc.remove(project, NONE, wait=False)
    assert set() == going(project)
    assert [] == list((project.store.root / "tmp").iterdir())
    assert tree.is_dir()
