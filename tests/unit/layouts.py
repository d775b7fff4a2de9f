"""Images to be broken: layouts that are written by hand, sound as `sound` gives them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkiln.image_reader import read_layout
from torchkiln.layer import MTIME
from torchkiln.venv import Venv

if TYPE_CHECKING:
    from torchkiln.listing import ImageListing

VENV = Venv(prefix="opt/venv", python="3.11")
SITE = VENV.site
PYC = b"\xa7\r\r\n" + b"\x01\0\0\0" + bytes(8) + b"code"
ENTRY = "opt/torchkiln/bin/entrypoint"
STATUS = "Package: dash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n"
ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - paths of the image, here and below
    "LD_LIBRARY_PATH": "/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
    "LOGNAME": "kiln",
    "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    "NVIDIA_REQUIRE_CUDA": "cuda>=11.7 driver>=450.80.02",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "PATH": "/opt/venv/bin:/usr/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTORCH_VERSION": "2.0.1",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",  # noqa: S108
    "TRITON_CACHE_DIR": "/tmp/triton",  # noqa: S108
    "USER": "kiln",
    "XDG_CACHE_HOME": "/tmp/.cache",  # noqa: S108
}


def row(path: str, data: bytes) -> str:
    """Return the row of RECORD for a file of site-packages."""
    encoded = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={encoded},{len(data)}\n"


def entry(path: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:  # noqa: ANN401
    """Return a member of a tar; `fields` are TarInfo's."""
    info = tarfile.TarInfo(path)
    info.mtime, info.mode, info.size = MTIME, 0o644, len(data)
    for name, value in fields.items():
        setattr(info, name, value)
    return info, data


@dataclass
class Layout:
    """An image to be broken: two layers of files by path, and its documents."""

    layers: list[dict[str, tuple[tarfile.TarInfo, bytes]]] = field(default_factory=lambda: [{}, {}])
    runtime: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=dict)
    tar_format: int = tarfile.PAX_FORMAT
    gzip_time: int = 0

    def put(self, path: str, data: bytes = b"", *, layer: int = 1, **fields: Any) -> None:  # noqa: ANN401
        """Add or replace a member and add its parents."""
        for parent in list(Path(path).parents)[:-1]:
            folder = entry(str(parent), type=tarfile.DIRTYPE, mode=0o755)
            self.layers[layer].setdefault(str(parent), folder)
        self.layers[layer][path] = entry(path, data, **fields)

    def write(self, folder: Path, *, as_is: bool = False) -> ImageListing:
        """Write the layout and read it back; members are sorted unless they are to stay `as_is`."""
        blobs = folder / "blobs/sha256"
        blobs.mkdir(parents=True)
        tars = [self._tar(members, as_is=as_is) for members in self.layers]
        layers = []
        for tar in tars:
            data = gzip.compress(tar, mtime=self.gzip_time)
            media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
            layers.append(put_blob(blobs, data) | {"mediaType": media_type})
        config = {
            "config": self.runtime,
            "rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
        }
        kind = "application/vnd.oci.image"
        manifest = {
            "mediaType": f"{kind}.manifest.v1+json",
            "config": put_blob(blobs, json.dumps(config).encode())
            | {"mediaType": f"{kind}.config.v1+json"},
            "layers": layers,
        } | self.manifest
        index = {
            "mediaType": f"{kind}.index.v1+json",
            "manifests": [put_blob(blobs, json.dumps(manifest).encode())],
        } | self.index
        (folder / "index.json").write_text(json.dumps(index))
        return read_layout(folder)

    def _tar(self, members: dict[str, tuple[tarfile.TarInfo, bytes]], *, as_is: bool) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=self.tar_format) as archive:
            for path in members if as_is else sorted(members):
                info, data = members[path]
                archive.addfile(info, io.BytesIO(data))
        return stream.getvalue()


def put_blob(folder: Path, data: bytes) -> dict[str, Any]:
    """Write a blob and return its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    (folder / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def sound() -> Layout:
    """A sound image of cu117 with one Debian package and one wheel."""
    made = Layout()
    base = partial(made.put, layer=0)
    for name in ("bin", "sbin"):
        base(name, type=tarfile.SYMTYPE, linkname=f"usr/{name}", mode=0o777)
    dash = ("usr/bin/dash", "usr/bin/sh", "usr/sbin/ldconfig", "usr/bin/getent", "etc/ld.so.conf")
    for path in dash:
        base(path, b"program", mode=0o755)
    base("etc/ld.so.conf.d", type=tarfile.DIRTYPE, mode=0o755)
    base("etc/ssl/certs/ca-certificates.crt", b"certificates")
    base("etc/dpkg/dpkg.cfg.d/slim", b"path-exclude /usr/share/man/*\n")
    base("root", type=tarfile.DIRTYPE, mode=0o700)
    base("tmp", type=tarfile.DIRTYPE, mode=0o1777)
    base("var/lib/dpkg/status", STATUS.encode())
    listed = ["/.", "/bin/dash", "/usr/share/man/dash.1", *(f"/{path}" for path in dash)]
    base("var/lib/dpkg/info/dash.list", "\n".join(listed).encode())

    version, metadata = b"cuda = '11.7'\n", b"Name: torch\nVersion: 2.0.1\n"
    cudart = "nvidia/lib/libcudart.so.11.0"
    rows = row("torch/version.py", version) + row(cudart, b"cudart")
    rows += row("torch-2.0.1.dist-info/METADATA", metadata) + "torch-2.0.1.dist-info/RECORD,,\n"
    made.put(f"{SITE}/torch/version.py", version)
    made.put(f"{SITE}/torch/__pycache__/version.cpython-311.pyc", PYC)
    made.put(f"{SITE}/{cudart}", b"cudart")
    made.put(f"{SITE}/torch-2.0.1.dist-info/METADATA", metadata)
    made.put(f"{SITE}/torch-2.0.1.dist-info/RECORD", rows.encode())
    made.put("opt/venv/pyvenv.cfg", b"home = /usr/bin\n")
    made.put(ENTRY, b'#!/bin/sh\nexec "$@"\n', mode=0o755)
    driver = "/usr/local/nvidia/lib\n/usr/local/nvidia/lib64\n/.singularity.d/libs\n"
    made.put("etc/ld.so.conf.d/nvidia.conf", driver.encode())
    made.runtime = {
        "User": "1000:0",
        "Entrypoint": [f"/{ENTRY}"],
        "Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
    }
    return made
