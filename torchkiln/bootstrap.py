"""Make `.venv` from the hash-locked requirements; `kiln` runs this with the system's Python.

`.venv` is trusted only for what its stamp says, and the stamp is written last. So a `.venv` that
was interrupted, even with kill -9, is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln import flock, host, pipconf
from torchkiln.errors import FetchError, HostError, KilnError
from torchkiln.files import UnsupportedError, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROJECT: Final = Path(__file__).resolve().parents[1]
VENV_BYTES: Final = 400_000_000
"""100 MB with the requirements, 360 MB with the dev requirements too, and something to spare."""

STAMP: Final = ".stamp"
DEV_STAMP: Final = ".dev-stamp"
CONDA_STAMP: Final = ".conda-stamp"
_FAILURE: Final = "the environment cannot be made: `.venv`"


_WITHOUT_SANDBOX: Final = frozenset(
    [
        *("", "--help", "--list", "bundle", "check-contract", "check-facts", "ci-matrix", "diff"),
        *("env", "explain", "export", "fetch", "gc", "launch", "list", "load-bundle", "lock"),
        *("provenance", "pull", "push", "recommend", "render", "sbom"),
    ]
)
"""Tasks that start no image, and so run where user namespaces are forbidden, or on macOS.

Where one of them has to build an image first, the sandbox itself says what it lacks."""


def main(stamp: str, task: str = "") -> int:
    """Make the environment for `stamp` (opaque: `kiln` compares it); return the exit code.

    `task` is what comes then: most need what a build needs, which is told before any work.
    """
    try:
        prepare(PROJECT, stamp, os.environ, sandbox=task not in _WITHOUT_SANDBOX)
    except KilnError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def prepare(project: Path, stamp: str, environ: Mapping[str, str], *, sandbox: bool = True) -> None:
    """Make `.venv` in `project` unless it is there for `stamp`; raise `HostError` if it cannot."""
    venv = project / ".venv"
    space = host.Space(
        path=venv, size=VENV_BYTES, hint="clone to a place of your own that has room"
    )
    host.demand([*_python_faults(), *host.faults(environ, [space], sandbox=sandbox)])
    with _locked(venv) as lock:
        if _read(venv / STAMP) == stamp and (venv / "bin/python").exists():
            return
        _say(f"Making `.venv` with Python {sys.version.split()[0]}, once")
        _clear(venv)
        # Resolved, so that a distribution upgrade leaves a dead link, which `kiln` notices, and not
        # another Python without our packages.
        command = [str(Path(sys.executable).resolve()), "-I", "-m", "venv", str(venv)]
        _run(command, lock, environ)
        requirements = project / "envs/kiln/requirements.txt"
        _install(venv, requirements, lock, environ, wheels_folder(project))
        _demand_program(venv)
        write_atomic(venv / STAMP, f"{stamp}\n")


def require_dev(project: Path = PROJECT) -> None:
    """Install the dev requirements (test tools, linters) into `.venv` unless they are there."""
    _require(project, "dev-requirements.txt", DEV_STAMP, "the test tools")


def require_conda(project: Path = PROJECT) -> None:
    """Install what solves and installs conda packages into `.venv` unless it is there.

    It is no requirement of `kiln` itself: 25 MB that only conda's locks and environments need.
    """
    _require(project, "conda-requirements.txt", CONDA_STAMP, "py-rattler, for conda packages,")


def _require(project: Path, name: str, stamp_name: str, what: str) -> None:
    """Install the requirements `name` into `.venv` unless the stamp says that they are there."""
    venv, requirements = project / ".venv", project / "envs/kiln" / name
    stamp = hashlib.sha256(requirements.read_bytes()).hexdigest()
    with _locked(venv) as lock:
        if _read(venv / stamp_name) == stamp:
            return
        _say(f"Installing {what} into `.venv`, once")
        _install(venv, requirements, lock, os.environ)
        write_atomic(venv / stamp_name, f"{stamp}\n")


def _python_faults() -> Iterator[host.Fault]:
    """Debian and Ubuntu ship `venv` without `ensurepip` until python3-venv is installed."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        what = f"this Python has no module `{missing[0]}`: {sys.executable}"
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        hint = f"sudo apt-get install {package}, or `TORCHKILN_PYTHON=/path/to/python3 ./kiln`"
        yield host.Fault(what=what, hint=hint)


@contextlib.contextmanager
def _locked(venv: Path) -> Iterator[int]:
    """Hold the lock of `venv`; it goes with the last process that has its descriptor.

    A symbolic link is refused: what it leads to is the user's, and would be emptied.
    """
    if venv.is_symlink():
        what = f"cannot use a symbolic link as `.venv`: {venv} -> {venv.readlink()}"
        why = "Torchkiln empties and fills this folder"
        raise HostError(what, why, shlex.join(["rm", str(venv)]))
    try:
        venv.mkdir(exist_ok=True)
        # A file opened for writing: NFS locks no other (flock(2), "NFS details").
        lock = os.open(venv / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _failure(str(error)) from error
    message = "Waiting for another `kiln` that is making `.venv`"
    try:
        try:
            flock.acquire(lock, waiting=lambda: _say(message))
        except UnsupportedError as error:
            hint = f"copy the clone to a local disk: `cp -r {shlex.quote(str(venv.parent))} /path`"
            raise HostError(_FAILURE, f"{error.strerror}: {venv}", hint) from error
        yield lock
    finally:
        os.close(lock)


def _clear(venv: Path) -> None:
    """Remove everything in `venv` but the lock; the stamp first, so that no rest is trusted."""
    for stamp in (STAMP, DEV_STAMP, CONDA_STAMP):
        (venv / stamp).unlink(missing_ok=True)
    for entry in venv.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != ".lock":
            entry.unlink()


def wheels_folder(project: Path) -> Path:
    """Return where a bundle has laid the wheels of the requirements, if the project is from one."""
    return project / "envs/kiln/wheels"


def _install(
    venv: Path,
    requirements: Path,
    lock: int,
    environ: Mapping[str, str],
    wheels: Path | None = None,
) -> None:
    """Let pip install `requirements`, from where the user's pip finds packages; never from source.

    From the folder `wheels` alone if it is there: pip would wait for an index out of reach.
    """
    python = str(venv / "bin/python")
    try:
        environ = pipconf.only_fetching(environ, python)
    except FetchError as error:
        why = f"{error.what}\n{error.why}"
        raise _failure(why) from None
    command = [python, "-I", "-m", "pip", "install", "--no-input", "--no-user"]
    command += ["--disable-pip-version-check", "--progress-bar=off"]
    command += ["--require-hashes", "--only-binary=:all:", f"--requirement={requirements}"]
    sources = ["--no-index", f"--find-links={wheels}"] if wheels and wheels.is_dir() else []
    _run([*command, *sources], lock, environ)
    # With nothing to install from, pip succeeds only where all is in `.venv`, in its version.
    plain = {name: value for name, value in environ.items() if name != "PIP_FIND_LINKS"}
    try:
        _run([*command, "--no-index"], lock, plain)
    except HostError as error:
        raise _incomplete(error.why, environ) from None


def _demand_program(venv: Path) -> None:
    """Raise `HostError` unless there is what `kiln` runs."""
    program = venv / "bin/invoke"
    if not os.access(program, os.X_OK):
        why = f"not found: {program}"
        raise _incomplete(why, os.environ)


def _incomplete(why: str, environ: Mapping[str, str]) -> HostError:
    """Return the error for a pip that reports success, and what it was configured with."""
    names = sorted(name for name in environ if name.startswith("PIP_"))
    why = f"{why}\nsettings: {', '.join(names) or 'none'}"
    hint = "`python3 -m pip config debug` shows where pip's settings come from"
    return HostError("pip reported success, but packages are missing from `.venv`", why, hint)


def _run(command: Sequence[str], lock: int, environ: Mapping[str, str]) -> None:
    """Run `command`, what it is at shown on a terminal; raise `HostError` with its end.

    The command inherits the lock: where we are killed and it goes on, nobody comes between.
    """
    terminal = sys.stderr.isatty()
    output = []
    with subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=[lock],
    ) as process:
        for line in process.stdout or ():
            output.append(line)
            if terminal and line.startswith(("Collecting", "Downloading", "Installing")):
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\033[K{line.strip()[:width]}", end="", file=sys.stderr, flush=True)  # noqa: T201
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)  # noqa: T201
    if process.returncode != 0:
        raise _failure("".join(output[-10:]))


def _failure(why: str) -> HostError:
    hint = "`python3 -m pip config list` shows which package index pip uses"
    return HostError(_FAILURE, why, hint)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _say(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
