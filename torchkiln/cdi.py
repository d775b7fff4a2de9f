"""NVIDIA's CDI specification of a host: the device nodes and libraries that a container is given.

`nvidia-ctk cdi generate` writes it. Its mounts are read and its hooks are not run: what they do,
linking a library to its SONAME and telling ldconfig, the sandbox does by where it mounts
(container-device-interface SPEC.md 0.8; nvidia-container-toolkit `pkg/nvcdi`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from torchkiln.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FOLDERS: Final = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""The specification's own places; a kind in the later one replaces that in the earlier."""

_KIND: Final = "nvidia.com/gpu"
_LIBRARY: Final = re.compile(r"lib.+\.so(\.[\d.]+)?")


@dataclass(frozen=True, kw_only=True)
class GpuSpec:
    """`nodes` are (path on the host, path in the container), `libraries` files of the host."""

    nodes: tuple[tuple[Path, str], ...]
    libraries: tuple[Path, ...]


def read_spec(folders: Sequence[Path] = FOLDERS) -> GpuSpec | None:
    """Return what the specification gives for all GPUs; None where there is none that holds.

    One that cannot be read, or that names files of a driver that is gone, is warned of.
    """
    found = None
    for folder in folders:
        for path in sorted([*folder.glob("*.json"), *folder.glob("*.yaml"), *folder.glob("*.yml")]):
            found = _read(path) or found
    missing = [path for path in _files(found) if not path.exists()]
    if missing:
        say(
            f"warning: the CDI specification is out of date, {missing[0]} is not there:"
            " sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
        )
        return None
    return found


def _read(path: Path) -> GpuSpec | None:
    """Return what the file gives, None where it is for other devices or no specification."""
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _spec(body) if body["kind"] == _KIND else None
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
        say(f"warning: this is no CDI specification, it is passed over: {path}")
        return None


def _files(spec: GpuSpec | None) -> list[Path]:
    return [*(host for host, _ in spec.nodes), *spec.libraries] if spec else []


def _spec(body: dict[str, Any]) -> GpuSpec:
    """Return what all devices of the specification need; `all` is one that has everything."""
    devices = {device["name"]: device["containerEdits"] for device in body["devices"]}
    chosen = [devices["all"]] if "all" in devices else list(devices.values())
    edits = [body.get("containerEdits") or {}, *chosen]
    nodes = dict(_nodes(edits))
    mounts = [Path(mount["hostPath"]) for edit in edits for mount in edit.get("mounts") or []]
    return GpuSpec(
        nodes=tuple((host, target) for target, host in sorted(nodes.items())),
        libraries=tuple(
            sorted({path for path in mounts if _LIBRARY.fullmatch(path.name)}),
        ),
    )


def _nodes(edits: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Path]]:
    """Yield (path in the container, path on the host) of each device node."""
    for edit in edits:
        for node in edit.get("deviceNodes") or []:
            yield node["path"], Path(node.get("hostPath") or node["path"])


def names_of(library: Path) -> list[str]:
    """Return the names under which programs look for a library: its own, and links beside it.

    Among these is its SONAME, by which ldconfig of the host has linked it.
    """
    real = library.resolve()
    stem = library.name.partition(".so")[0]
    links = [
        path.name
        for path in library.parent.glob(f"{stem}.so*")
        if path.is_symlink() and path.resolve() == real
    ]
    return sorted({library.name, *links})
