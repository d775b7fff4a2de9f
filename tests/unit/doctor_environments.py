"""Environments for the doctor's tests: real virtual environments, with small wheels in them.

The torch of a wheel is a stub with the surface that the doctor asks for; what is around it, its
metadata, the folders, the interpreters, the pip that runs a remedy, is real.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from doctor_machines import CHECKS, a_system
from package_index import pip_wheel

from torchkiln.doctor.facts import Subject, gather
from torchkiln.doctor.guard import run_checks
from torchkiln.doctor.report import diagnosis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchkiln.doctor.facts import Facts
    from torchkiln.doctor.guard import Finding

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

TORCH = """\
from torch import version
__version__ = version.__version__
class cuda:
    is_available = staticmethod(lambda: False)
    get_arch_list = staticmethod(lambda: [])
class backends:
    class cudnn:
        version = staticmethod(lambda: 8500)
def zeros(*_, **__):
    raise RuntimeError("no GPU")
"""


def wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    requires: Sequence[str] = (),
) -> Path:
    """Write a wheel with `files` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    everything = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {one}\n" for one in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{one},,{len(text)}\n" for one, text in everything.items())
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in everything.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def torch_wheel(
    folder: Path,
    version: str,
    cuda: str | None,
    body: str = TORCH,
    requires: Sequence[str] = (),
) -> Path:
    """Write the wheel of a torch that was built for `cuda`."""
    about = f"__version__ = {version!r}\ncuda = {cuda!r}\nhip = None\n"
    files = {"torch/__init__.py": body, "torch/version.py": about}
    return wheel(folder, "torch", version, files, requires)


def plain(folder: Path, name: str, version: str) -> Path:
    """Write the wheel of a package with one module."""
    return wheel(folder, name, version, {f"{name}/__init__.py": f"__version__ = {version!r}\n"})


@dataclass(kw_only=True)
class Venv:
    """A virtual environment in `folder`, on the machine with the files under `root`."""

    folder: Path
    root: Path
    wheels: Path
    environ: dict[str, str] = field(default_factory=dict)
    patience: float = 20.0

    @property
    def tools(self) -> Path:
        """Return the first folder on its PATH."""
        return self.folder.with_name("tools")

    def program(self, name: str, body: str) -> None:
        """Put a shell script on the PATH."""
        self.tools.mkdir(exist_ok=True)
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    @property
    def python(self) -> Path:
        """Return its Python."""
        return self.folder / "bin/python"

    @property
    def site(self) -> Path:
        """Return where its packages lie."""
        return self.folder / f"lib/python{VERSION}/site-packages"

    def install(self, path: Path, target: Path | None = None) -> None:
        """Unpack a wheel into the environment, as pip does."""
        with zipfile.ZipFile(path) as archive:
            archive.extractall(target or self.site)

    def variables(self) -> dict[str, str]:
        """Return the environment variables; pip finds the wheels of the test and no index."""
        return {
            "HOME": "/root",
            "USER": "someone",
            "PATH": f"{self.tools}:{os.defpath}",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
        } | self.environ

    def facts(self) -> Facts:
        """Return what the doctor gathers."""
        subject = Subject(
            environ=self.variables(), python=self.python, root=self.root, patience=self.patience
        )
        # The NVML of the machine that runs the tests knows nothing of this tree.
        with patch("torchkiln.machine._NVML", ("no-nvml",)):
            return gather(subject)

    def examine(self) -> list[Finding]:
        """Return what all checks find, the worst first."""
        return diagnosis(run_checks(CHECKS, self.facts(), lambda _: None))

    def complaints(self) -> dict[str, str]:
        """Return the id and evidence of all that is not well."""
        return {
            one.check.id: one.outcome.evidence
            for one in self.examine()
            if one.outcome.verdict not in {"ok", "skipped"}
        }

    def mend(self, remedy: str) -> None:
        """Run `remedy` in a shell, and keep the variables that it leaves."""
        script = f"{remedy} >&2\nstatus=$?; env -0; exit $status"
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            cwd=self.folder.parent,  # a remedy may make something in the folder where it is run
            env=self.variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (remedy, done.stderr)
        kept = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
        self.environ = {name: text for name, text in kept.items() if name != "PWD"}

    def recovers(self, name: str) -> bool:
        """Tell whether the doctor names the check `name` first, and its remedy mends that."""
        first = self.examine()[0]
        assert first.check.id == name, first
        assert first.outcome.verdict == "problem", first
        self.mend(first.outcome.remedy)
        after = {one.check.id: one.outcome.verdict for one in self.examine()}
        return after[name] in {"ok", "skipped"}


def make(tmp_path: Path, root: Path | None = None) -> Venv:
    """Make an environment with the pip of the Python that runs the tests."""
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    made = Venv(
        folder=folder, root=root or a_system(tmp_path / "machine").root, wheels=tmp_path / "wheels"
    )
    made.wheels.mkdir()
    for path in _pip().iterdir():
        (made.site / path.name).symlink_to(path)
    made.program("c++", "true")  # whether the machine that runs the tests has one
    return made


@functools.cache
def _pip() -> Path:
    """Return a folder with the pip that Python brings; it goes when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="doctor-pip-"))
    atexit.register(shutil.rmtree, folder)
    with zipfile.ZipFile(pip_wheel()) as archive:
        archive.extractall(folder)
    return folder


def make_prefix(tmp_path: Path) -> Venv:
    """Make a prefix as conda does: a Python of its own, which is no virtual environment."""
    if "deb_system" in sysconfig.get_scheme_names():
        pytest.skip("Debian's Python looks for packages elsewhere than conda's and all others")
    made = Venv(
        folder=tmp_path / "prefix",
        root=a_system(tmp_path / "machine").root,
        wheels=tmp_path / "wheels",
    )
    for folder in (made.site, made.python.parent, made.folder / "conda-meta", made.wheels):
        folder.mkdir(parents=True)
    shutil.copy(Path(sys.executable).resolve(), made.python)
    for path in Path(os.__file__).parent.iterdir():
        if path.name != "site-packages":
            (made.site.parent / path.name).symlink_to(path)
    (made.folder / "include").symlink_to(Path(sys.base_prefix) / "include")
    for path in _pip().iterdir():
        (made.site / path.name).symlink_to(path)
    made.program("c++", "true")
    return made
