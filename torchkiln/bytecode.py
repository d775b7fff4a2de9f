"""Bytecode for the modules of a wheel, made by the Python that will run them.

Unchecked hash-based (PEP 552): no clock in it, and no look at the source when it is imported. It is
shipped because a read-only image could never cache it.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from torchkiln import compile_modules
from torchkiln.errors import BuildError
from torchkiln.layer import Entry
from torchkiln.lockfile import digest
from torchkiln.recipe import recipe
from torchkiln.sandbox import Mount, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torchkiln.store import Store
    from torchkiln.wheel import Source, Wheel

_BATCH: Final = 400
"""Modules that one process compiles."""

_SCRIPT: Final = "/run/compile_modules.py"
_WHEEL: Final = "/run/wheel"


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """The Python of a base: `package` is the version of its package.

    `tree` gives the unpacked base, for which it may have to wait.
    """

    store: Store
    tree: Callable[[], Path]
    python: str
    package: str

    def jobs(self, wheel: Wheel) -> list[Callable[[], list[Entry]]]:
        """Return functions that each give a part of the wheel's bytecode, in whatever order."""
        starts = range(0, len(wheel.sources), _BATCH)
        batches = [wheel.sources[start : start + _BATCH] for start in starts]
        return [partial(self._compile, wheel, batch) for batch in batches]

    def _compile(self, wheel: Wheel, batch: Sequence[Source]) -> list[Entry]:
        paths = [(source.member, source.path) for source in batch]
        key = digest([recipe(compile_modules), self.package, wheel.locked.sha256, paths])
        record = self.store.read_record("bytecode", key)
        if record is None or not self.store.has(record["blob"]):
            made = self.store.put(_run(self, wheel, batch))
            record = {"blob": made, "wheel": wheel.locked.sha256}
            self.store.write_record("bytecode", key, record)
        blob = self.store.blob(record["blob"])
        return list(_entries(blob, wheel.locked.file, f"cpython-{self.python.replace('.', '')}"))


def _run(compiler: Compiler, wheel: Wheel, batch: Iterable[Source]) -> bytes:
    sandbox = Sandbox(
        root=compiler.tree(),
        env={"PATH": "/usr/bin", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
        mounts=(
            Mount(source=Path(compile_modules.__file__), target=_SCRIPT),
            Mount(source=compiler.store.blob(wheel.locked.sha256), target=_WHEEL),
        ),
    )
    with tempfile.TemporaryFile() as members:
        members.write(json.dumps([[part.member, f"/{part.path}"] for part in batch]).encode())
        members.seek(0)
        done = sandbox.run(
            ["/usr/bin/python3", "-s", "-S", "-B", _SCRIPT, "--wheel", _WHEEL],
            stdin=members,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    if done.returncode:
        what = f"bytecode could not be made for: {wheel.locked.file}"
        raise BuildError(what, done.stderr.decode(errors="replace")[-2000:])
    return done.stdout


def _entries(blob: Path, owner: str, tag: str) -> Iterator[Entry]:
    with blob.open("rb") as stream:
        while line := stream.readline():
            path, _, length = line.decode().rpartition("\t")
            data = stream.read(int(length))
            if data:
                yield Entry.text(_cached(path, tag), data, owner=owner)


def _cached(path: str, tag: str) -> str:
    """Return where CPython looks for the bytecode of the module at `path` (PEP 3147)."""
    module = PurePosixPath(path.lstrip("/"))
    return str(module.parent / "__pycache__" / f"{module.stem}.{tag}.pyc")
