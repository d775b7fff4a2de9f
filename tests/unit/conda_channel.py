"""Real conda channels in a folder, with the names and build strings that the real ones have."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sys
import tarfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rattler.index import index_fs

from torchkiln.catalog import Base, Catalog, Variant
from torchkiln.lockfile import (
    LockedWheel,
    VariantLock,
    dump,
    kernel_inputs,
    kernel_lock_path,
    variant_inputs,
    variant_lock_path,
)
from torchkiln.pipeline import Project
from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""That of this interpreter: what is installed is run."""
_NEEDS_PYTHON = f"python {PYTHON}.*"


@dataclass(frozen=True, kw_only=True)
class CondaPackage:
    """A package of a channel; `files` are by path in the prefix, a text is a symlink's target."""

    channel: str
    name: str
    version: str
    build: str
    number: int = 0
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    noarch: str = ""
    files: dict[str, bytes | str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Return its path below the folder of all channels."""
        subdir = "noarch" if self.noarch else "linux-64"
        return f"{self.channel}/{subdir}/{self.name}-{self.version}-{self.build}.tar.bz2"

    def pack(self, root: Path) -> Path:
        """Write it into its channel below `root`: the same bytes each time."""
        path = root / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        files = self.files or {f"share/{self.name}.txt": f"{self.name} {self.version}".encode()}
        documents = {
            "info/index.json": self._index(),
            "info/paths.json": {"paths_version": 1, "paths": [*map(_entry, files.items())]},
            "info/about.json": {},
        }
        with tarfile.open(path, "w:bz2") as archive:
            for name, content in (files | {k: _json(v) for k, v in documents.items()}).items():
                info = tarfile.TarInfo(name)
                info.mode = 0o755 if name.startswith("bin/") else 0o644
                if isinstance(content, str):
                    info.type, info.linkname = tarfile.SYMTYPE, content
                    archive.addfile(info)
                else:
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return path

    def _index(self) -> dict[str, Any]:
        place = {"noarch": self.noarch, "subdir": "noarch"}
        return {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": self.number,
            "depends": list(self.depends),
            "constrains": list(self.constrains),
            "timestamp": 1_700_000_000_000,
            **(place if self.noarch else {"subdir": "linux-64"}),
        }


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _entry(item: tuple[str, bytes | str]) -> dict[str, Any]:
    name, content = item
    if isinstance(content, str):
        return {"_path": name, "path_type": "softlink"}
    digest = hashlib.sha256(content).hexdigest()
    return {
        "_path": name,
        "path_type": "hardlink",
        "sha256": digest,
        "size_in_bytes": len(content),
    }


def _interpreter() -> CondaPackage:
    """Return Python as a package: this one, with the prefix that it is linked into as its own."""
    real = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    files: dict[str, bytes | str] = {
        "bin/python": str(real),
        "pyvenv.cfg": f"home = {real.parent}\n".encode(),
    }
    return CondaPackage(
        channel="conda-forge",
        name="python",
        version=f"{PYTHON}.9",
        build="h955ad1f_0_cpython",
        files=files,
    )


def _pure(name: str, version: str, *depends: str) -> CondaPackage:
    return CondaPackage(
        channel="conda-forge",
        name=name,
        version=version,
        build="pyhd8ed1ab_0",
        depends=("python >=3.10", *depends),
        noarch="python",
        files={f"site-packages/{name}/__init__.py": b""},
    )


def _numpy(version: str) -> CondaPackage:
    return CondaPackage(
        channel="conda-forge",
        name="numpy",
        version=version,
        build="py311h64a7726_0",
        depends=(_NEEDS_PYTHON,),
    )


NUMPY = _numpy("2.4.5")
CUDA_TORCH = CondaPackage(
    channel="conda-forge",
    name="pytorch",
    version="2.13.0",
    build="cuda130_mkl_py311_h0123456_300",
    number=300,
    depends=(_NEEDS_PYTHON, "__cuda", "cuda-version >=13.0,<14", "numpy >=1.23,<3"),
)
CPU_TORCH = CondaPackage(
    channel="conda-forge",
    name="pytorch",
    version="2.13.0",
    build="cpu_mkl_py311_h6543210_100",
    number=100,
    depends=(_NEEDS_PYTHON, "numpy >=1.23,<3", "__glibc >=2.17,<3.0.a0"),
)
FORGE = (
    _interpreter(),
    CUDA_TORCH,
    CPU_TORCH,
    NUMPY,
    _numpy("2.4.7"),
    _numpy("1.26.4"),
    CondaPackage(
        channel="conda-forge",
        name="cuda-version",
        version="13.0",
        build="hb1c5b95_3",
        number=3,
        constrains=("__cuda >=13", "cudatoolkit 13.0.*"),
        noarch="generic",
    ),
    *(
        CondaPackage(channel="conda-forge", name="mkl", version=version, build="hb3b7f4d_0")
        for version in ("2023.2.0", "2024.2.2")
    ),
    _pure("matplotlib", "3.11.2", "numpy"),
    _pure("ipykernel", "7.3.0"),
    _pure("pip", "26.3"),
)
# The channel that has ended: builds are told apart by a package of which there is one at a time.
ENDED = (
    *(
        CondaPackage(
            channel="pytorch",
            name="pytorch",
            version="2.0.1",
            build=f"py3.11_{build}_0",
            depends=(_NEEDS_PYTHON, "mkl >=2018", f"pytorch-mutex 1.0 {device}", *depends),
        )
        for build, device, depends in (
            ("cuda11.7_cudnn8.5.0", "cuda", ("pytorch-cuda >=11.7,<11.8",)),
            ("cuda11.8_cudnn8.7.0", "cuda", ("pytorch-cuda >=11.8,<11.9",)),
            ("cpu", "cpu", ()),
        )
    ),
    *(
        CondaPackage(
            channel="pytorch",
            name="pytorch-mutex",
            version="1.0",
            build=device,
            number=number,
            noarch="generic",
        )
        for device, number in (("cuda", 100), ("cpu", 0))
    ),
    CondaPackage(
        channel="pytorch",
        name="cpuonly",
        version="2.0",
        build="0",
        depends=("pytorch-mutex 1.0 cpu",),
        noarch="generic",
    ),
    *(
        CondaPackage(
            channel="pytorch",
            name="pytorch-cuda",
            version=version,
            build="h778d358_5",
            depends=("libcublas",),
        )
        for version in ("11.7", "11.8")
    ),
    CondaPackage(channel="nvidia", name="libcublas", version="11.10.3.66", build="0"),
)


def make_channels(root: Path, packages: Sequence[CondaPackage] = (*FORGE, *ENDED)) -> Path:
    """Write the channels of `packages` into `root`, with their indexes, and return it."""
    for package in packages:
        package.pack(root)
    for channel in {package.channel for package in packages}:
        asyncio.run(index_fs(root / channel))
    return root


def cuda(**changes: object) -> Variant:
    """Return a variant that conda-forge has for CUDA 13.0."""
    asked: dict[str, Any] = {"id": "cu130", "torch": "2.13.0", "cuda": "13.0", "index": None}
    return Variant(**(asked | {"packages": ("matplotlib", "numpy", "pip")} | changes))


def cpu(**changes: object) -> Variant:
    """Return its CPU counterpart."""
    return cuda(**({"id": "cpu", "cuda": None} | changes))


VERSIONS = {"matplotlib": "3.11.2", "numpy": "2.4.5", "pip": "26.3"}


def _locked(name: str, version: str) -> LockedWheel:
    file = f"{name}-{version}-py3-none-any.whl"
    return LockedWheel(name=name, version=version, file=file, size=1, sha256="0" * 64)


KERNEL = (_locked("ipykernel", "7.3.0"),)


def make_project(
    folder: Path,
    channels: Path,
    *variants: Variant,
    wheels: Sequence[LockedWheel] = (),
    kernel: Sequence[LockedWheel] = KERNEL,
    versions: dict[str, str] = VERSIONS,
) -> Project:
    """Return a project in `folder` whose variants are locked, and whose conda is set up."""
    base = Base(release="bookworm", python=PYTHON, packages=())
    catalog = Catalog(base=base, indexes={}, variants=variants)
    made = tuple(_locked(*one) for one in versions.items())
    for variant in variants:
        lock = VariantLock(
            variant=variant.id,
            inputs=variant_inputs(catalog, variant),
            python=PYTHON,
            wheels=tuple(wheels) or made,
        )
        path = variant_lock_path(folder, variant.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump(lock), encoding="utf-8")
        beside = replace(lock, inputs=kernel_inputs(lock), wheels=tuple(kernel))
        kernel_lock_path(folder, variant.id).write_text(dump(beside), encoding="utf-8")
    environ = {"CONDA_CHANNEL_ALIAS": channels.as_uri(), "HOME": str(folder)}
    return Project(root=folder, catalog=catalog, store=Store(folder / "store"), environ=environ)
