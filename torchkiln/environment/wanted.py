"""Which wheels an environment is to have here: those of the lock, or others by the same pins.

A lock names wheels for Linux on x86_64 and one Python. On another platform the same versions are
resolved anew, and that is said, because nothing was tested with these files.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from torchkiln import pipconf
from torchkiln.candidates import supported_tags
from torchkiln.digests import parse_sha256
from torchkiln.environment.installer import plain
from torchkiln.environment.record import Pin
from torchkiln.errors import EnvError
from torchkiln.lockfile import KERNEL, digest
from torchkiln.reach import reach
from torchkiln.resolve import Sources, compile_pins, public_constraints, torch_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torchkiln.catalog import Catalog, Variant
    from torchkiln.lockfile import LockedWheel, VariantLock

_UV_SYSTEMS: Final = {"Darwin": "apple-darwin", "Windows": "pc-windows-msvc"}
_UV_ARCHITECTURES: Final = {"arm64": "aarch64", "AMD64": "x86_64"}


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What wheels are chosen by beside Python's version; of this machine unless told otherwise.

    `glibc` is (2, minor), None where there is none. `python` is the Python that wheels must fit;
    for a platform that is elsewhere it is None, and `macos` the version that macOS has there.
    """

    system: str = field(default_factory=platform.system)
    architecture: str = field(default_factory=platform.machine)
    glibc: tuple[int, int] | None = field(default_factory=lambda: _glibc(platform.libc_ver()))

    python: Path | None = None
    macos: str = ""

    @property
    def options(self) -> list[str]:
        """Return uv's options that choose wheels for it."""
        if self.python:
            return ["--python", str(self.python)]
        return ["--python", sys.executable, "--python-platform", self.uv_name]

    @property
    def uv_name(self) -> str:
        """Return uv's name for it: `aarch64-apple-darwin`, `x86_64-manylinux_2_31`."""
        architecture = _UV_ARCHITECTURES.get(self.architecture, self.architecture)
        if self.system == "Linux" and self.glibc:
            return f"{architecture}-manylinux_{self.glibc[0]}_{self.glibc[1]}"
        return f"{architecture}-{_UV_SYSTEMS.get(self.system, 'unknown-linux-musl')}"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be installed.

    `wheels` are the files of the lock; where there are none, the pins were resolved for `platform`,
    and wheels come from `sources` (uv's options and environment).
    """

    pins: tuple[Pin, ...]
    lock: str
    wheels: tuple[LockedWheel, ...] = ()
    platform: str = ""


def lock_digest(lock: VariantLock) -> str:
    """Return what tells one lock from another."""
    return digest(asdict(lock))


def unfit(lock: VariantLock, here: Platform) -> list[str]:
    """Return the locked files that do not run here, sorted."""
    if (here.system, here.architecture) != ("Linux", "x86_64") or here.glibc is None:
        return sorted(wheel.file for wheel in lock.wheels if not wheel.file.endswith("-any.whl"))
    tags = supported_tags(lock.python, here.glibc[1])
    return sorted(
        wheel.file
        for wheel in lock.wheels
        if not any(tag in tags for tag in parse_wheel_filename(wheel.file)[3])
    )


def locked(lock: VariantLock, without: frozenset[str]) -> Wanted:
    """Return the lock's own wheels, but for the distributions `without`."""
    wheels = tuple(wheel for wheel in lock.wheels if wheel.name not in without)
    pins = (Pin(name=w.name, version=w.version, hashes=(w.sha256,)) for w in wheels)
    return Wanted(pins=tuple(sorted(pins)), lock=lock_digest(lock), wheels=wheels)


def resolved(
    catalog: Catalog,
    variant: Variant,
    lock: VariantLock,
    here: Platform,
    environ: Mapping[str, str],
    *,
    without: frozenset[str] = frozenset(),
) -> Wanted:
    """Return what has the lock's versions on another platform, by hash; uses the network.

    What cannot be had there is an `EnvError` with uv's explanation.
    """
    if variant.cuda and here.system == "Darwin":
        what = f"there is no CUDA on macOS, which `{variant.id}` is for"
        raise EnvError(what, hint="./kiln env --cpu")
    # The builds for macOS have no local version: `2.13.0` there is `2.13.0+cpu` on Linux.
    torch = torch_version(variant) if here.system == "Linux" else variant.torch
    packages = [one for one in variant.packages if Requirement(one).name not in without]
    found = sources(catalog, variant, environ)
    pins = resolve_pins([f"torch=={torch}", *packages, *KERNEL], lock, here, found, environ)
    return Wanted(pins=pins, lock=lock_digest(lock), platform=here.uv_name)


def sources(catalog: Catalog, variant: Variant, environ: Mapping[str, str]) -> Sources:
    """Return where pip is configured to find packages, and the variant's own index."""
    config = pipconf.read(environ)
    index = catalog.indexes[variant.index] if variant.index else None
    return Sources(reach=reach(config, index, environ), config=config)


def resolve_pins(
    requirements: Iterable[str],
    lock: VariantLock,
    here: Platform,
    found: Sources,
    environ: Mapping[str, str],
) -> tuple[Pin, ...]:
    """Return the pins of `requirements` and all that they need, at the lock's versions.

    The lock constrains and asks for nothing: what this platform does not need does not come.
    """
    options = [*here.options, "--generate-hashes"]
    # Without this, uv takes every macOS for one that is years old.
    macos = {"MACOSX_DEPLOYMENT_TARGET": here.macos} if here.macos else {}
    environ = plain(environ) | macos
    text = public_constraints(lock)
    done = compile_pins(requirements, lock.python, options, found, environ, constraints=text)
    if done.returncode:
        what = f"the versions of `{lock.variant}` cannot be had for {here.uv_name}"
        hint = "see which indexes pip is configured with: pip config list"
        raise EnvError(what, done.stderr.strip(), hint)
    return read_pins(done.stdout)


def read_pins(text: str) -> tuple[Pin, ...]:
    """Return the pins of a requirements file with hashes, as uv writes it."""
    pins = []
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = line.split(" --hash=sha256:")
        name, _, version = requirement.strip().partition("==")
        stripped = tuple(sorted(parse_sha256(one.strip()) for one in hashes))
        pins.append(Pin(name=canonicalize_name(name), version=version, hashes=stripped))
    return tuple(sorted(pins))


def _glibc(version: tuple[str, str]) -> tuple[int, int] | None:
    """Return the version of glibc that `platform.libc_ver` gives; musl has none."""
    name, text = version
    if name != "glibc":
        return None
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
