"""Whose things `gc` keeps in a store that several clones use, and what it says of them."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from image_archives import image, layer

from torchkiln import claims, gc, gc_reports, inputs, pipeline, projects
from torchkiln.claims import Keep
from torchkiln.conda import prefix, rattler
from torchkiln.engine.kiln import layer_keys
from torchkiln.environment import make
from torchkiln.environment.record import environment
from torchkiln.environment.wanted import locked
from torchkiln.errors import FetchError
from torchkiln.layer import Entry
from torchkiln.lockfile import dump, lock_hash, read_variant_lock, variant_lock_path
from torchkiln.projects import Root, is_gone, register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchkiln.image import Image
    from torchkiln.pipeline import Project

ROOT = Path(__file__).resolve().parents[2]
DAY = 86400


def clone(tmp_path: Path, name: str, *, without: str = "") -> Project:
    """Return a clone with the store that all share; its lock of the CPU lacks a wheel."""
    root = tmp_path / "clones" / name
    for folder in ("envs/cpu", "images", "smoke", "templates"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "envs/debian-bookworm.lock.json", root / "envs")
    project = pipeline.open_project(root, {"TORCHKILN_HOME": str(tmp_path / "store")})
    relock(project, without)
    return project


def relock(project: Project, without: str) -> None:
    """Write the lock of the CPU anew, of this project's own wheels but one."""
    lock = read_variant_lock(ROOT, project.catalog, project.catalog.variant("cpu"))
    wheels = tuple(wheel for wheel in lock.wheels if wheel.name != without)
    path = variant_lock_path(project.root, "cpu")
    path.write_text(dump(replace(lock, wheels=wheels)))


def built(project: Project) -> Image:
    """Build the CPU image as each command does, with small layers under the keys of its own."""
    variant = project.catalog.variant("cpu")
    for key in layer_keys(pipeline.job(project, variant)):
        if not project.store.read_record("layers", key):
            made = layer(project.store, key, Entry.text(key, key.encode() * 100))
            project.store.write_record("layers", key, vars(made))
    return pipeline.built_image(project, variant)


def is_whole(project: Project, made: Image) -> bool:
    """Tell whether the image is there, and is not to be built again."""
    blobs = [made.digest, made.config, *(one.digest for one in made.layers)]
    return (
        made.layout.is_dir()
        and all(map(project.store.has, blobs))
        and pipeline.image_built_before(project, project.catalog.variant("cpu")) == made
    )


def make_old(root: Path, days: float) -> None:
    before = time.time() - days * DAY
    for path in root.rglob("*"):
        os.utime(path, (before, before), follow_symlinks=False)


def make_all_old_but_projects(project: Project) -> None:
    """Let nothing be kept for its own age: projects alone were used lately."""
    make_old(project.store.root, days=400)
    for path in (project.store.root / "records" / projects.KIND).iterdir():
        os.utime(path)


def owners(project: Project, keep: Keep | None = None) -> list[dict[str, Any]]:
    """Return what `gc --json` says of who keeps what."""
    document = gc_reports.as_json(gc.plan(project, keep or Keep()), removed=False)
    found: list[dict[str, Any]] = json.loads(json.dumps(document))["owners"]
    return found


def owner(project: Project, name: object, keep: Keep | None = None) -> dict[str, Any]:
    """Return what it says of one."""
    (found,) = (one for one in owners(project, keep) if one["name"] == str(name) and one["lock"])
    return found


def record(project: Project, root: Path) -> Path:
    """Return the one record of the clone at `root`."""
    found = projects.records(project.store)
    (path,) = (one.path for one in found if one.root.project == root)
    return path


def test_gc_in_one_clone_keeps_what_another_built(tmp_path: Path) -> None:
    mine, other = clone(tmp_path, "mine"), clone(tmp_path, "other", without="numpy")
    theirs, made = built(other), built(mine)
    make_all_old_but_projects(mine)

    gc.remove(mine, Keep(), wait=False)

    assert theirs.digest != made.digest
    assert is_whole(other, theirs)
    assert is_whole(mine, made)
    assert () == gc.plan(mine, Keep()).going


def test_without_a_record_of_it_the_other_image_goes(tmp_path: Path) -> None:
    """The control of the test above."""
    mine, other = clone(tmp_path, "mine"), clone(tmp_path, "other", without="numpy")
    theirs = built(other)
    record(mine, other.root).unlink()
    make_old(mine.store.root, days=400)

    gc.remove(mine, Keep(), wait=False)

    assert not is_whole(other, theirs)


@pytest.mark.parametrize("without", ["numpy", ""])
def test_a_checkout_of_another_branch_keeps_what_this_one_built(
    tmp_path: Path, without: str
) -> None:
    """An older lock or a newer one; nothing is to be made again where the branch is back."""
    project = clone(tmp_path, "mine", without="" if without else "numpy")
    today = built(project)
    relock(project, without)
    before = built(project)
    make_all_old_but_projects(project)
    gc.remove(project, Keep(), wait=False)

    assert is_whole(project, before)
    relock(project, "" if without else "numpy")
    assert is_whole(project, today)
    assert 2 == len([one for one in owners(project) if one["variant"] == "cpu"])


def test_code_that_makes_other_layers_has_a_record_beside_todays(tmp_path: Path) -> None:
    project = clone(tmp_path, "mine")
    today = built(project)
    old = layer(project.store, "old", Entry.text("old", b"old"))
    project.store.write_record("layers", "0" * 64, vars(old))
    lock = lock_hash(variant_lock_path(project.root, "cpu"))
    root = Root(project=project.root, variant="cpu", lock=lock, layers=frozenset(["0" * 64]))
    register(project.store, root)
    make_all_old_but_projects(project)

    gc.remove(project, Keep(), wait=False)

    assert project.store.has(old.digest)
    gc.remove(project, Keep(unused=0), wait=False)
    assert not project.store.has(old.digest)
    assert is_whole(project, today)


def test_a_project_whose_folder_is_gone_is_dropped_and_shown(tmp_path: Path) -> None:
    mine, other = clone(tmp_path, "mine"), clone(tmp_path, "other", without="numpy")
    made, theirs = built(mine), built(other)
    shutil.rmtree(other.root)

    told = owner(mine, other.root)
    text = gc_reports.shown(gc.plan(mine, Keep()), removed=False)
    gc.remove(mine, Keep(), wait=False)

    assert ("gone", 0, "cpu") == (told["state"], told["unused_days"], told["variant"])
    assert 0 < told["freed"] < told["size"]
    (line,) = (line for line in text.splitlines() if line.startswith(str(other.root)))
    assert "today  folder not found  " in line
    assert "nothing was removed: ./kiln gc --remove" in text
    assert not theirs.layout.exists()
    assert not [one for one in owners(mine) if one["name"] == str(other.root)]
    assert is_whole(mine, made)


def test_what_was_used_in_the_days_to_keep_stays_though_its_folder_is_gone(tmp_path: Path) -> None:
    mine, other = clone(tmp_path, "mine"), clone(tmp_path, "other", without="numpy")
    built(other)
    shutil.rmtree(other.root)

    assert "kept" == owner(mine, other.root, Keep(days=14))["state"]


def test_a_file_system_that_is_not_mounted_now_is_no_folder_that_is_gone(tmp_path: Path) -> None:
    """Its mount point is an empty folder, or made with the mount; another machine has others."""
    (tmp_path / "home/mine").mkdir(parents=True)
    root = Root(project=tmp_path / "home/mine", variant="cpu", lock="0" * 64)

    assert not is_gone(root)
    (tmp_path / "home/mine/README.md").touch()
    assert is_gone(root), "a folder that is no clone any more"
    assert not is_gone(replace(root, machine="another"))
    shutil.rmtree(tmp_path / "home/mine")
    assert not is_gone(root), "/home is mounted there"
    (tmp_path / "home/else").touch()
    assert is_gone(root)
    shutil.rmtree(tmp_path / "home")
    assert not is_gone(root), "/home/mine is made when it is mounted"


def test_a_project_that_another_user_may_not_read_is_there(tmp_path: Path) -> None:
    (tmp_path / "closed/else").mkdir(parents=True)
    root = Root(project=tmp_path / "closed/mine", variant="cpu", lock="0" * 64)
    assert is_gone(root), "the control: who may look sees that it is not"

    with closed(tmp_path / "closed"):
        assert not is_gone(root)


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Let this process be no one who may look into the folder."""
    user = os.geteuid()
    folder.chmod(0o000)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("keep", "days", "state"),
    [
        (Keep(), claims.UNUSED - 1, "kept"),
        (Keep(), claims.UNUSED + 1, "unused"),
        (Keep(unused=5), 4, "kept"),
        (Keep(unused=5), 6, "unused"),
        (Keep(unused=0), 0, "unused"),
        (Keep(days=60), claims.UNUSED + 1, "kept"),
        (Keep(), -400, "kept"),
    ],
    ids=str,
)
def test_a_project_is_dropped_that_was_unused_for_the_stated_time(
    tmp_path: Path, keep: Keep, days: int, state: str
) -> None:
    """A time that is not yet, of a clock that was wrong, is as good as now."""
    mine, other = clone(tmp_path, "mine"), clone(tmp_path, "other", without="numpy")
    theirs = built(other)
    make_old(mine.store.root, days)

    told = owner(mine, other.root, keep)
    gc.remove(mine, keep, wait=False)

    assert (state, max(0, days)) == (told["state"], told["unused_days"])
    assert (state == "kept") == is_whole(other, theirs) == (not told["freed"])


def test_using_it_makes_a_project_new_again(tmp_path: Path) -> None:
    mine, other = clone(tmp_path, "mine"), clone(tmp_path, "other", without="numpy")
    built(other)
    make_old(mine.store.root, 400)

    built(other)

    assert 0 == owner(mine, other.root)["unused_days"]


def test_present_locks_of_this_checkout_keep_theirs_however_long_unused(tmp_path: Path) -> None:
    project = clone(tmp_path, "mine")
    made = built(project)
    make_old(project.store.root, 400)

    told = owner(project, project.root, Keep(unused=0))
    gc.remove(project, Keep(unused=0), wait=False)

    assert ("here", 400, 0) == (told["state"], told["unused_days"], told["freed"])
    assert is_whole(project, made)


def test_a_present_lock_keeps_more_than_was_used_of_it(tmp_path: Path) -> None:
    """The wheels of a kernel, for an environment that is not made yet."""
    project = clone(tmp_path, "mine")
    relock(project, "")
    built(project)
    body = json.loads((project.root / "envs/cpu/kernel.lock.json").read_text())
    kernel = project.store.blob(body["wheels"][0]["sha256"])
    kernel.write_bytes(b"PK")

    gc.remove(project, Keep(unused=0), wait=False)

    assert kernel.exists()


def test_what_has_no_project_goes_when_it_is_old_and_is_shown_till_then(tmp_path: Path) -> None:
    """So a store of before, whose projects did not register, loses no image to the first gc."""
    mine, other = clone(tmp_path, "mine"), clone(tmp_path, "other", without="numpy")
    theirs = built(other)
    shutil.rmtree(mine.store.root / "records/roots")
    make_old(mine.store.root, claims.UNUSED + 1)
    os.utime(theirs.layout)  # an image that was asked for has all that it needs

    (told,) = (one for one in owners(mine) if one["kind"] == "unknown")
    gc.remove(mine, Keep(), wait=False)

    assert ("no project known", "by age") == (told["name"], told["state"])
    assert told["size"] > 0
    assert is_whole(other, theirs)
    make_old(mine.store.root, claims.UNUSED + 1)
    gc.remove(mine, Keep(), wait=False)
    assert not theirs.layout.exists()


def test_pulled_images_go_when_asked_for_however_young(tmp_path: Path) -> None:
    project = clone(tmp_path, "mine")
    made = image(project.store, "a")
    project.store.write_record("pulled", made.digest, {"blobs": [made.digest]})

    kept, goes = (
        next(one for one in owners(project, keep) if one["kind"] == "pulled")
        for keep in (Keep(), Keep(pulled=False))
    )

    assert ("kept", 0) == (kept["state"], kept["freed"])
    assert ("dropped", "pulled images") == (goes["state"], goes["name"])
    assert goes["freed"] > 0


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[:-20],
    "binary": lambda data: b"\xff\xfe" + data,
    "deep": lambda data: b"[" * 100_000 + data,
    "list": lambda data: b"[" + data + b"]",
    "later": lambda data: data.replace(b'"format": 1', b'"format": 2'),
    "other": lambda data: data.replace(b'"cpu"', b'"gpu"'),
    "null": lambda data: data.replace(b'"cpu"', b"null"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_told_and_keeps_what_it_still_names(tmp_path: Path, name: str) -> None:
    mine, other = clone(tmp_path, "mine"), clone(tmp_path, "other", without="numpy")
    theirs = built(other)
    make_old(mine.store.root, 400)
    path = record(mine, other.root)
    path.write_bytes(BROKEN[name](path.read_bytes()))

    done = gc.remove(mine, Keep(), wait=False)

    shown = gc_reports.shown(done, removed=True)
    assert f"warning: cannot read records/roots/{path.name}: " in shown
    (told,) = (one for one in owners(mine) if one["kind"] == "unreadable")
    assert ("kept", f"records/roots/{path.name}") == (told["state"], told["name"])
    assert told["fault"]
    assert is_whole(other, theirs) == (name != "empty")


@pytest.mark.parametrize(
    "change",
    [
        {"project": "relative"},
        {"project": "/a\0b"},
        {"project": 7},
        {"variant": ["cpu"]},
        {"lock": 7},
        {"lock": "\x1b[2J"},
        {"inputs": ["../../etc/passwd"]},
        {"layers": "0" * 64},
        {"conda": [1]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_record_that_register_cannot_have_written_is_broken(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """Though its name is the hash of it: anyone who may write the store can see to that."""
    project = clone(tmp_path, "mine")
    root = Root(project=project.root, variant="cpu", lock="0" * 64)
    body = projects._body(root) | change
    told = body | {"format": projects.FORMAT, "machine": "m"}
    project.store.write_record(projects.KIND, projects._key(body), told)

    (found,) = projects.records(project.store)

    assert found.fault
    gc.plan(project, Keep())


def test_a_path_need_not_be_utf_8(tmp_path: Path) -> None:
    project = clone(tmp_path, os.fsdecode(b"caf\xe9"))
    made = built(project)

    gc.remove(project, Keep(unused=0), wait=False)

    assert "here" == owner(project, project.root)["state"]
    assert "caf\\udce9" in gc_reports.shown(gc.plan(project, Keep()), removed=False)
    assert is_whole(project, made)


def test_a_record_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    project = clone(tmp_path, "mine")
    register(project.store, Root(project=Path("/a\x1b[2J\nb"), variant="\r", lock="0" * 64))

    text = gc_reports.shown(gc.plan(project, Keep()), removed=False)

    assert r"/a\x1b[2J\nb" in text
    assert not {"\x1b", "\r"} & set(text)


def test_a_gc_that_ends_early_leaves_the_record_of_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = clone(tmp_path, "mine"), clone(tmp_path, "other", without="numpy")
    theirs = built(other)
    shutil.rmtree(other.root)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gc.remove(mine, Keep(), wait=False)

    assert "gone" == owner(mine, other.root)["state"]
    gc.remove(mine, Keep(), wait=False)
    assert not theirs.layout.exists()


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def stopped(*_: object, **__: object) -> None:
    what = "no network"
    raise FetchError(what)


@pytest.mark.parametrize("command", ["build", "base", "fetch", "check-facts", "env", "conda"])
def test_each_command_registers_before_it_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    project = clone(tmp_path, "mine")
    variant = project.catalog.variant("cpu")
    lock = read_variant_lock(project.root, project.catalog, variant)
    env = environment(tmp_path / "env")
    work = make.Work(project=project, variant=variant, env=env, handle=0)
    for module in (inputs, pipeline, make):
        monkeypatch.setattr(module, "fetch", stopped)
    monkeypatch.setattr(pipeline, "_check_host", lambda *_: None)
    monkeypatch.setattr(prefix, "channels_of", lambda *_: ())
    monkeypatch.setattr(rattler, "install", stopped)
    torch = lock.wheel("torch").sha256
    commands: dict[str, tuple[Callable[[], object], str, str]] = {
        "build": (lambda: pipeline.built_image(project, variant), "cpu", torch),
        "base": (lambda: pipeline.build_base_alone(project), "debian-bookworm", ""),
        "fetch": (lambda: pipeline.fetch_inputs(project, variant), "cpu", torch),
        "check-facts": (lambda: pipeline.torch_wheel(project, variant), "cpu", torch),
        "env": (lambda: make.fill(work, (), locked(lock, frozenset())), "cpu", torch),
        "conda": (lambda: prefix.put_packages(project, variant, env, ()), "cpu", ""),
    }
    run, name, needed = commands[command]

    with pytest.raises(FetchError):
        run()

    (found,) = projects.records(project.store)
    assert (project.root, name, "") == (found.root.project, found.root.variant, found.fault)
    assert not needed or needed in found.root.inputs
    assert bool(found.root.layers) == (command in {"build", "base", "fetch"})
