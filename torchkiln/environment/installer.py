"""uv, which makes environments: told all it needs by us, and nothing by the user's settings.

Everything is installed with hashes, and by hard links from a cache beside the environment, on the
same file system: so the bytes are on the disk once, and the cache costs nothing when it goes.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uv

from torchkiln.errors import EnvError
from torchkiln.files import link_or_copy
from torchkiln.store import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torchkiln.environment.record import Environment, Pin
    from torchkiln.lockfile import LockedWheel
    from torchkiln.store import Store

# A constraint, an index, a link mode or a cache of the user's would change what is installed, and
# PYTHONPATH or an active environment would let the installer see foreign packages.
_FOREIGN: Final = ("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV", "CONDA_")
_CACHE: Final = ".torchkiln-cache"


def plain(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that would change an environment."""
    return {name: value for name, value in environ.items() if not name.startswith(_FOREIGN)}


def find_python(version: str, environ: Mapping[str, str]) -> Path:
    """Return a Python of this machine with `version` (major.minor); nothing is downloaded.

    None is an `EnvError`.
    """
    command = [uv.find_uv_bin(), "python", "find", "--no-project", "--system", "--no-config"]
    command += ["--offline", "--no-python-downloads", version]
    done = subprocess.run(command, env=plain(environ), capture_output=True, text=True, check=False)
    if done.returncode:
        what = f"there is no Python {version} on this machine, which the lock is for"
        raise EnvError(what, done.stderr.strip(), f"{uv.find_uv_bin()} python install {version}")
    return Path(done.stdout.strip())


def make_venv(env: Environment, python: Path, prompt: str, environ: Mapping[str, str]) -> None:
    """Make an empty virtual environment in the folder, which may hold our lock."""
    command = ["venv", "--no-project", "--allow-existing", "--offline", "--no-python-downloads"]
    _run([*command, "--python", str(python), "--prompt", prompt, str(env.root)], environ, ())


@contextmanager
def wheelhouse(store: Store, wheels: Iterable[LockedWheel]) -> Iterator[Path]:
    """Give a folder of the wheels under their names: links to the store's files."""
    with store.workspace() as folder:
        for wheel in wheels:
            link_or_copy(store.blob(wheel.sha256), folder / wheel.file)
        yield folder


def install(
    env: Environment,
    pins: Sequence[Pin],
    source: Sequence[str],
    environ: Mapping[str, str],
    keep: Sequence[int] = (),
) -> None:
    """Install `pins`, each by its hashes, in the place of other versions and damaged ones.

    `source` are uv's options that say where wheels come from; `environ` is passed on as it is. The
    descriptors `keep` stay open in uv.
    """
    cache = env.root / _CACHE
    command = ["pip", "install", "--python", str(env.interpreter), "--cache-dir", str(cache)]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--reinstall"]
    command += ["--link-mode", "hardlink", *source, "--requirements", "-"]
    try:
        _run(command, environ, keep, "".join(f"{pin.line}\n" for pin in pins))
    finally:
        remove_tree(cache)


def uninstall(env: Environment, names: Sequence[str], environ: Mapping[str, str]) -> None:
    """Remove distributions."""
    _run(["pip", "uninstall", "--python", str(env.interpreter), *names], environ, ())


def _run(
    words: Sequence[str], environ: Mapping[str, str], keep: Sequence[int], text: str = ""
) -> None:
    """Run uv; on a terminal it draws its own progress. A failure raises `EnvError`."""
    terminal = sys.stderr.isatty()
    command = [uv.find_uv_bin(), *words, "--no-config", "--color", "never"]
    done = subprocess.run(
        command + ([] if terminal else ["--quiet"]),
        env=dict(environ),
        input=text,
        stdout=subprocess.DEVNULL,
        stderr=None if terminal else subprocess.PIPE,
        text=True,
        pass_fds=keep,
        check=False,
    )
    if done.returncode:
        what = f"uv could not do its part: `uv {' '.join(words[:2])}`"
        raise EnvError(what, (done.stderr or "see above").strip())
