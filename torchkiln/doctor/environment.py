"""An environment as it lies on the disk: its Python, and what is installed for it.

The Python is asked for its own folders; distributions are read from their metadata. Nothing that is
installed is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkiln.doctor.ask import ask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# Of any Python 3: it is what the person has who needs a doctor.
_QUESTION = """\
import json, os, platform, site, struct, sys, sysconfig
print(json.dumps({
    "version": platform.python_version(),
    "implementation": platform.python_implementation(),
    "bits": struct.calcsize("P") * 8,
    "machine": platform.machine(),
    "system": platform.system(),
    "libc": "".join(platform.libc_ver()),
    "prefix": sys.prefix,
    "base_prefix": getattr(sys, "base_prefix", sys.prefix),
    "path": [os.path.abspath(one) for one in sys.path if one and os.path.isdir(one)],
    "user_site": site.getusersitepackages(),
    "user_site_on": bool(site.ENABLE_USER_SITE),
    "include": sysconfig.get_paths()["include"],
}))
"""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A distribution by its normalised name; `folder` is where its packages lie.

    `metadata` is its dist-info or egg-info folder; `installer` is what its INSTALLER says.
    `requires` has what it needs without any extra: normalised names, with `==VERSION` where it
    pins one.
    """

    name: str
    version: str
    folder: Path
    metadata: Path | None
    installer: str
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A Python that answered, and the distributions on its path, in the order of the path.

    `libc` is `glibc2.36`, "" where it is another. `path` has the folders that it imports from.
    """

    python: Path
    version: tuple[int, ...]
    implementation: str
    bits: int
    machine: str
    system: str
    libc: str
    prefix: Path
    base_prefix: Path
    path: tuple[Path, ...]
    user_site: Path
    user_site_on: bool
    include: Path
    installed: tuple[Installed, ...]

    @property
    def conda(self) -> bool:
        """Tell whether it is a conda prefix."""
        return (self.prefix / "conda-meta").is_dir()

    def find(self, name: str) -> Installed | None:
        """Return the distribution `name` (normalised) that is imported: the first on the path."""
        return next((one for one in self.installed if one.name == name), None)


def examine(python: Path | None, environ: Mapping[str, str], patience: float) -> Environment | None:
    """Return the environment of `python` as a program started in it sees it.

    What does not answer raises `RuntimeError`, and says why.
    """
    if python is None:
        return None
    answer = ask(python, _QUESTION, environ, patience)
    found: dict[str, Any] | None = answer.value
    if found is None:
        raise RuntimeError(answer.failure)
    path = tuple(map(Path, found["path"]))
    return Environment(
        python=python,
        version=tuple(map(int, re.findall(r"\d+", found["version"])[:3])),
        implementation=found["implementation"],
        bits=found["bits"],
        machine=found["machine"],
        system=found["system"],
        libc=found["libc"],
        prefix=Path(found["prefix"]),
        base_prefix=Path(found["base_prefix"]),
        path=path,
        user_site=Path(found["user_site"]),
        user_site_on=found["user_site_on"],
        include=Path(found["include"]),
        installed=tuple(_installed(path)),
    )


def _installed(path: Sequence[Path]) -> Iterator[Installed]:
    for folder in path:
        for one in distributions(path=[str(folder)]):
            name = one.metadata["Name"]  # None where an interrupted install left no METADATA
            if name:
                yield Installed(
                    name=_normalised(name),
                    version=one.version,
                    folder=folder,
                    metadata=getattr(one, "_path", None),
                    installer=(one.read_text("INSTALLER") or "").strip(),
                    requires=tuple(_required(one.requires or [])),
                )


def _required(lines: Iterable[str]) -> Iterator[str]:
    """Read Requires-Dist (PEP 508), of which names and pins are enough here."""
    for line in lines:
        match = re.match(
            r"([\w.-]+)(?:\[.*?\])?\s*\(?\s*(?:==\s*([\w.+!]+)\s*\)?\s*(?:;|$))?", line
        )
        if match and "extra ==" not in line:
            yield _normalised(match[1]) + (f"=={match[2]}" if match[2] else "")


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
