"""Which modules a distribution brings, from its RECORD, and what happens on importing them.

Run as a program, this file imports the modules named on its command line and prints, as JSON, the
error of each that could not be imported. So a module that ends the process takes no check with it.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIMIT_S: Final = 300
MODULE: Final = re.compile(r"(?P<stem>\w+)\.(py|cpython-[\w-]+\.so|abi3\.so)")
"""A module's file name. A bare `.so` is a library, `nvidia/cu13/lib/libcheckpoint.so`."""


def top_modules(record: Iterable[str]) -> list[str]:
    """Return the names to import for the installed files of one distribution, sorted.

    A folder with an `__init__.py` is a package. One without is a namespace, of which the outermost
    packages and modules below count: `nvidia.cublas`. A distribution of data, programs or bare
    libraries gives an empty list.
    """
    modules = {name for path in record if (name := _module(PurePosixPath(path)))}
    return sorted(name for name in modules if not any(p in modules for p in _parents(name)))


def version_fits(installed: str, locked: str) -> bool:
    """Return whether `installed` is the locked version, by PEP 440's rule for `==`.

    A locked version without a local part (`2.13.0`) takes any local part (`2.13.0+cpu`).
    """
    return locked in {installed, installed.partition("+")[0]}


def import_errors(modules: Sequence[str]) -> dict[str, str]:
    """Import `modules` in a child process; return the error of each that fails."""
    command = [sys.executable, __file__, *modules]
    child = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    # The answer is the last line: modules may print at import.
    answer = child.stdout.splitlines()[-1:]
    if child.returncode != 0 or not answer:
        begun = [line for line in child.stderr.splitlines() if line in modules]
        return {(begun or ["python"])[-1]: f"ended its process with {child.returncode}"}
    errors: dict[str, str] = json.loads(answer[0])
    return errors


def _module(path: PurePosixPath) -> str:
    """Return the dotted name of the module that the file at `path` is, or an empty string."""
    match = MODULE.fullmatch(path.name)
    if match is None:
        return ""
    stem = match["stem"]
    parts = path.parts[:-1] if stem == "__init__" else (*path.parts[:-1], stem)
    return ".".join(parts) if all(part.isidentifier() for part in parts) else ""


def _parents(name: str) -> list[str]:
    """Return the dotted names that enclose `name`."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _sweep(modules: Sequence[str]) -> dict[str, str]:
    """Import each module here; return the errors."""
    errors = {}
    # pip last: before Python 3.12 its import turns off setuptools' own distutils, and without them
    # setuptools cannot be imported (`spec_for_pip` in its _distutils_hack).
    for name in sorted(modules, key=lambda name: name == "pip"):
        print(name, file=sys.stderr, flush=True)
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - SystemExit at import is a fault as well
            errors[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return errors


if __name__ == "__main__":
    print("\n" + json.dumps(_sweep(sys.argv[1:])), flush=True)
