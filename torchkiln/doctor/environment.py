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
from torchkiln.doctor.requirements import Requirement, normalised, requirements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Of any Python 3: it is what the person has who needs a doctor.
_QUESTION = """\
import importlib.util, json, os, platform, site, struct, sys, sysconfig
paths = sysconfig.get_paths()
base_prefix = getattr(sys, "base_prefix", sys.prefix)
print(json.dumps({
    "version": platform.python_version(),
    "implementation": platform.python_implementation(),
    "bits": struct.calcsize("P") * 8,
    "machine": platform.machine(),
    "system": platform.system(),
    "libc": "".join(platform.libc_ver()),
    "prefix": sys.prefix,
    "base_prefix": base_prefix,
    "path": [os.path.abspath(one) for one in sys.path if one and os.path.isdir(one)],
    "user_site": site.getusersitepackages(),
    "user_site_on": bool(site.ENABLE_USER_SITE),
    "include": paths["include"],
    "managed": sys.prefix == base_prefix
    and os.path.exists(os.path.join(paths["stdlib"], "EXTERNALLY-MANAGED")),
    "ensurepip": importlib.util.find_spec("ensurepip") is not None,
}))
"""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A distribution by its normalised name; `folder` is where its packages lie.

    `metadata` is its dist-info or egg-info folder; `installer` is what its INSTALLER says.
    """

    name: str
    version: str
    folder: Path
    metadata: Path | None
    installer: str
    requires: tuple[Requirement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A Python that answered, and the distributions on its path, in the order of the path.

    `libc` is `glibc2.36`, "" where it is another. `path` has the folders that it imports from.
    `managed` tells that pip refuses to install into it (PEP 668).
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
    managed: bool
    ensurepip: bool
    installed: tuple[Installed, ...]

    @property
    def conda(self) -> bool:
        """Tell whether it is a conda prefix."""
        return (self.prefix / "conda-meta").is_dir()

    def by_conda(self, one: Installed) -> bool:
        """Tell whether conda has put `one` there; its older packages name no installer."""
        return self.conda and one.installer in {"", "conda"} and self.prefix in one.folder.parents

    def find(self, name: str) -> Installed | None:
        """Return the distribution `name` (normalised) that is imported: the first on the path."""
        return next((one for one in self.installed if one.name == name), None)

    def required(self, one: Installed, extras: Sequence[str] = ()) -> list[Requirement]:
        """Return what `one` requires here, with `extras`, by the markers of its requirements."""
        values = {
            "platform_system": self.system,
            "sys_platform": {"Windows": "win32"}.get(self.system, self.system.lower()),
            "os_name": "nt" if self.system == "Windows" else "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": self.implementation,
            "implementation_name": self.implementation.lower(),
            "python_version": ".".join(map(str, self.version[:2])),
            "python_full_version": ".".join(map(str, self.version)),
        }
        return [wanted for wanted in one.requires if wanted.holds(values, extras)]


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
        managed=found["managed"],
        ensurepip=found["ensurepip"],
        installed=tuple(_installed(path)),
    )


def _installed(path: Sequence[Path]) -> Iterator[Installed]:
    for folder in path:
        for one in distributions(path=[str(folder)]):
            name = one.metadata["Name"]  # None where an interrupted install left no METADATA
            metadata: Path | None = getattr(one, "_path", None)
            # pip puts a tilde before what it will remove; importlib reads it all the same.
            if name and not (metadata and metadata.name.startswith("~")):
                yield Installed(
                    name=normalised(name),
                    version=one.version,
                    folder=folder,
                    metadata=metadata,
                    installer=(one.read_text("INSTALLER") or "").strip(),
                    requires=tuple(requirements(one.requires or [])),
                )
