"""`./kiln` as people run it: a process with a store of its own, in this clone or in a copy."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torchkiln import catalog, pipeline
from torchkiln.store import Store, remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torchkiln.engine.job import Job

PROJECT: Final = Path(__file__).resolve().parents[2]
OFFLINE: Final = (
    ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--net", "--map-root-user")
)
"""Before a command: it has no network, not even a loopback."""

NO_NAMESPACES: Final = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"',
    "sh",
)
"""Before a command: no user namespace can be made, so no sandbox starts."""
_STARTED: Final[list[tuple[Path, subprocess.Popen[str]]]] = []
"""What was started, and the store that it has."""


def which(variant: str) -> tuple[str, ...]:
    """Return the flags that name a variant."""
    return ("--cpu",) if variant == "cpu" else ("--cuda", variant)


@dataclass(frozen=True, kw_only=True)
class Kiln:
    """The command of the clone at `clone` with the store at `home`.

    `prefix` stands before the command; `user` is a numeric id, `umask` that of the process.
    """

    home: Path
    clone: Path = PROJECT
    prefix: tuple[str, ...] = ()
    user: int | None = None
    umask: int = 0o022
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """Return the store, for looking into it."""
        return Store(self.home)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `./kiln` in a process group of its own."""
        account: dict[str, Any] = {}
        if self.user is not None:
            account = {"user": self.user, "group": self.user, "extra_groups": []}
        process = subprocess.Popen(
            [*self.prefix, str(self.clone / "kiln"), *words],
            cwd="/",
            env={**os.environ, **self.env, "TORCHKILN_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            umask=self.umask,
            **account,
        )
        _STARTED.append((self.home, process))
        return process

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `./kiln` to its end, whatever that is."""
        return finish(self.start(*words))

    def build(self, *words: str) -> dict[str, Any]:
        """Build and return the JSON object; a build that fails fails the test with its message."""
        done = self("build", *(words or ("--cpu", "--no-smoke")), "--json")
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for the process; an impatient test leaves no build behind."""
    try:
        out, err = process.communicate()
    except BaseException:
        kill(process)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the whole group with signal 9, as an out-of-memory killer or a batch system does."""
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def cpu_job(home: Path) -> Job:
    """Return what the build of the CPU image is made from, with the store at `home`."""
    project = pipeline.open_project(PROJECT, {"TORCHKILN_HOME": str(home)})
    return pipeline.job(project, catalog.select(project.catalog, cpu=True, cuda=None))


def share_inputs(source: Path, target: Path, *, copy: bool = False) -> None:
    """Give the store at `target` the CPU image's locked inputs, and nothing made from them."""
    work = cpu_job(source)
    wheels = [wheel.sha256 for wheel in work.lock.wheels]
    share(source, target, [*wheels, *(deb.sha256 for deb in work.base_lock.debs)], copy=copy)


def share(source: Path, target: Path, blobs: Iterable[str], *, copy: bool = False) -> None:
    """Give the store at `target` some blobs: hard links, or copies where there can be none."""
    Store(target).blobs.mkdir(parents=True, exist_ok=True)
    for sha256 in blobs:
        place = Store(target).blob(sha256)
        try:
            if copy:
                shutil.copy2(Store(source).blob(sha256), place)
            else:
                os.link(Store(source).blob(sha256), place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copy2(Store(source).blob(sha256), place)


def copy_clone(target: Path) -> None:
    """Copy what a clone has of this project, without what was made in it."""
    made = shutil.ignore_patterns(".*", "__pycache__", "tests")
    shutil.copytree(PROJECT, target, ignore=made)


@contextmanager
def folder() -> Iterator[Path]:
    """Give a folder that every user may enter; pytest's own is its user's alone, and is kept."""
    made = Path(tempfile.mkdtemp(prefix="torchkiln-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        # A test that was stopped has not waited for them, and they would go on writing.
        for home, process in _STARTED:
            if made in {home, *home.parents} and process.poll() is None:
                kill(process)
        remove_tree(made)


def give(path: Path, user: int) -> None:
    """Make `user` the owner of everything at `path`."""
    for parent, names, files in os.walk(path):
        for name in (".", *names, *files):
            os.chown(Path(parent, name), user, user, follow_symlinks=False)


def false_names(home: Path) -> list[str]:
    """Return the blobs whose bytes are not those that their names promise."""
    blobs = sorted(Store(home).blobs.glob("*"))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        hashes = pool.map(file_sha256, blobs)
    return [blob.name for blob, sha256 in zip(blobs, hashes, strict=True) if blob.name != sha256]


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while data := stream.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def leftovers(home: Path) -> list[str]:
    """Return what lies in the store's folder for work in progress."""
    place = home / "tmp"
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def identity(document: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """Return what must be the same everywhere: the manifest's digest, names and diff_ids."""
    layers: Sequence[Mapping[str, str]] = document["layers"]
    return document["digest"], [(layer["name"], layer["diff_id"]) for layer in layers]


def free_port() -> int:
    """Return a port of the loopback at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def listens(port: int) -> bool:
    """Tell whether someone listens at a port of the loopback."""
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds, and tell whether it does."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def unmount_below(place: Path) -> None:
    """Unmount what a killed engine left mounted below a folder."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{place}/"):
            subprocess.run(["umount", "--lazy", mount], check=False)


def output(*command: str, env: Mapping[str, str] = os.environ) -> str:
    """Return a command's standard output; one that fails fails the test with its messages."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
