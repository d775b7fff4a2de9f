"""The one place that knows py-rattler: solving, lock files, installing, this machine's drivers.

py-rattler changes from minor to minor, so nothing else imports it. Tried with 0.28:

- `solve` reads a string strictly and refuses `pytorch=2.13.0=cuda130*`; `MatchSpec` takes it;
- `pixi.lock` is written in version 7 alone;
- an index of today has `indexed_timestamp`, which would make each lock another;
- the checksum of a package that comes from a folder is not looked at, and a file that was changed
  in the package cache is installed, unless the cache is told to validate;
- a thread of it may end after Python does, which crashes: hence the pause at exit.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from torchkiln.errors import CondaError

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Mapping, Sequence
    from pathlib import Path

    from torchkiln.conda.channels import Channel

SUBDIR: Final = "linux-64"
_PAUSE: Final = 0.1  # seconds
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!~-]*", re.ASCII)


class UnsolvableError(Exception):
    """There is no solution; its text is the solver's explanation, a tree."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of a channel; hashes in hex, `url` at the channel's own address.

    `depends` and `constrains` are match specs; `record` is py-rattler's.
    """

    name: str
    version: str
    build: str
    url: str
    sha256: str
    md5: str
    size: int
    depends: tuple[str, ...]
    constrains: tuple[str, ...]
    record: Any = field(repr=False, compare=False)

    def __str__(self) -> str:
        """Return `numpy-2.4.6-py311_0`."""
        return f"{self.name}-{self.version}-{self.build}"


@functools.cache
def _rattler() -> Any:  # noqa: ANN401 - a module
    try:
        module = importlib.import_module("rattler")
    except ImportError as error:
        what = "py-rattler, which solves and installs conda packages, is not there"
        raise CondaError(what, str(error), "rm -rf .venv && ./kiln lock --conda --cpu") from None
    atexit.register(time.sleep, _PAUSE)
    return module


def _exceptions() -> Any:  # noqa: ANN401 - a module
    _rattler()
    return importlib.import_module("rattler.exceptions")


@functools.cache
def _gateway(cache: Path) -> Any:  # noqa: ANN401 - py-rattler's
    """Return what reads the channels' indexes, each once."""
    return _rattler().Gateway(cache_dir=cache, show_progress=True)


def alias() -> str:
    """Return the address that conda's channels have where nothing is configured."""
    return str(_rattler().Channel("x").base_url).removesuffix("x/")


def solve(
    channels: Sequence[Channel],
    specs: Sequence[str],
    virtual: Mapping[str, str],
    cache: Path,
) -> tuple[Package, ...]:
    """Return the packages that fulfil `specs`, dependencies first.

    The channel that is named first and has a package is the only one for it. `virtual` are the
    virtual packages, name to version and build (`13.0=0`): those of this machine count for
    nothing. No solution raises `UnsolvableError`, a channel out of reach `CondaError`.
    """
    rattler = _rattler()
    records = _run(
        rattler.solve(
            [channel.here for channel in channels],
            [rattler.MatchSpec(spec) for spec in specs],
            gateway=_gateway(cache),
            platforms=[SUBDIR, "noarch"],
            virtual_packages=[_virtual(name, value) for name, value in virtual.items()],
        ),
        channels,
    )
    by_name = {one.name.normalized: one for one in sorted(records, key=lambda one: one.url)}
    # What comes back has lost its URL.
    ordered = rattler.PackageRecord.sort_topologically([*by_name.values()])
    return tuple(_package(by_name[one.name.normalized], channels) for one in ordered)


def candidates(channels: Sequence[Channel], spec: str, cache: Path) -> tuple[Package, ...]:
    """Return all packages of the channels that fit `spec`, the newest first."""
    rattler = _rattler()
    sources = [channel.here for channel in channels]
    wanted = rattler.MatchSpec(spec)
    query = _gateway(cache).query(sources, [SUBDIR, "noarch"], [wanted], recursive=False)
    found = [record for records in _run(query, channels) for record in records]
    ordered = sorted(found, key=lambda one: (one.version, one.build_number), reverse=True)
    return tuple(_package(record, channels) for record in ordered if wanted.matches(record))


def fits(spec: str, name: str, version: str) -> bool:
    """Tell whether `version` of the package `name` is what a match spec without a build says."""
    rattler = _rattler()
    wanted = rattler.MatchSpec(spec)
    if str(wanted.name.normalized) != name:
        return False
    if wanted.version is None:
        return True
    return bool(rattler.VersionSpec(wanted.version).matches(rattler.Version(version)))


def write_lock(
    path: Path,
    channels: Sequence[Channel],
    packages: Sequence[Package],
    virtual: Mapping[str, str],
) -> None:
    """Write `packages` to `path` as pixi.lock, of the environment `default`."""
    rattler = _rattler()
    needs = [f"{name}={value}" for name, value in sorted(virtual.items())]
    platform = rattler.LockPlatform(SUBDIR, virtual_packages=needs)
    lock = rattler.LockFile([platform])
    lock.set_channels("default", [rattler.LockChannel(one.url) for one in channels])
    for package in packages:
        lock.add_conda_package("default", platform, package.record)
    lock.to_path(path)


def read_lock(path: Path) -> tuple[Package, ...]:
    """Return the packages of a pixi.lock; one that cannot be read raises `CondaError`."""
    exceptions = _exceptions()
    try:
        lock = _rattler().LockFile.from_path(path)
    except (exceptions.ParseCondaLockError, exceptions.IoError) as error:
        what = f"the conda lock cannot be read: {path}"
        raise CondaError(what, str(error), "./kiln lock --conda --all") from None
    (platform,) = lock.platforms()
    records = lock.default_environment().conda_repodata_records_for_platform(platform)
    return tuple(_package(record, ()) for record in records or ())


def install(
    packages: Sequence[Package],
    channels: Sequence[Channel],
    prefix: Path,
    cache: Path,
    *,
    again: Collection[str],
    foreign: Collection[str],
) -> None:
    """Install `packages` into `prefix`, each from where this machine gets its channel.

    Those with a name in `again` come anew where they are there, and what is `foreign` stays.
    What is fetched is checked against its sha256, what `cache` has against its own; of what lies in
    a folder the caller checks the sha256. Scripts of packages are not run. The first package that
    cannot be had raises `CondaError`.
    """
    rattler = _rattler()
    records = [_local(package, channels) for package in packages]
    validated = rattler.PackageCacheLayer(cache).with_validation_mode(rattler.ValidationMode.full())
    _run(
        rattler.install(
            records,
            prefix,
            reinstall_packages={*again},
            ignored_packages={*foreign},
            package_cache=rattler.PackageCache.from_layers([validated]),
            platform=rattler.Subdir(SUBDIR),
            execute_link_scripts=False,
            show_progress=True,
        ),
        channels,
    )


def this_machine(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of this machine's virtual packages by name, as conda sees them.

    CONDA_OVERRIDE_CUDA in `environ` says which CUDA there is; empty, that there is none.
    """
    detected = [one.into_generic() for one in _rattler().VirtualPackage.detect()]
    found = {one.name.normalized: str(one.version) for one in detected}
    if (stated := environ.get("CONDA_OVERRIDE_CUDA")) is not None:
        found.pop("__cuda", None)
        found |= {"__cuda": stated} if stated else {}
    return found


def _virtual(name: str, value: str) -> Any:  # noqa: ANN401 - py-rattler's
    rattler = _rattler()
    version, _, build = value.partition("=")
    return rattler.GenericVirtualPackage(
        rattler.PackageName(name), rattler.Version(version), rattler.BuildString(build)
    )


def _run(work: Coroutine[Any, Any, Any], channels: Sequence[Channel]) -> Any:  # noqa: ANN401
    """Run `work` to its end and return its result, its errors turned into ours."""
    exceptions = _exceptions()

    async def awaited() -> Any:  # noqa: ANN401
        return await work

    try:
        return asyncio.run(awaited())
    except exceptions.SolverError as error:
        raise UnsolvableError(str(error).partition("because of: ")[2].strip()) from None
    except (exceptions.GatewayError, exceptions.FetchRepoDataError) as error:
        raise _unreachable(str(error), channels) from None
    except exceptions.InstallerError as error:
        raise _not_installed(str(error)) from None


def _unreachable(text: str, channels: Sequence[Channel]) -> CondaError:
    named = [one.name for one in channels if one.here in text] or [one.name for one in channels]
    what = f"the conda channel cannot be reached: {', '.join(named)}"
    hint = "name a mirror that can: export CONDA_CHANNEL_ALIAS=<the URL above its channels>"
    return CondaError(what, text, hint)


def _not_installed(text: str) -> CondaError:
    first, _, rest = text.partition("\n")
    name = first.removeprefix("failed to fetch ")
    what = f"a conda package cannot be installed: {name}"
    hint = "try again: what has come is kept"
    if "hash mismatch" in rest:
        hint = "ask another mirror: export CONDA_CHANNEL_ALIAS=<the URL above its channels>"
    return CondaError(what, rest.replace("Caused by: ", "") or first, hint)


def _local(package: Package, channels: Sequence[Channel]) -> Any:  # noqa: ANN401
    """Return the record of a package, which is told where this machine gets it."""
    record = package.record
    for channel in channels:
        if package.url.startswith(channel.url):
            record.url = channel.here + package.url.removeprefix(channel.url)
            record.channel = channel.here
    return record


def _package(record: Any, channels: Sequence[Channel]) -> Package:  # noqa: ANN401
    """Return the package of a record, which is told the channel's own address."""
    for channel in channels:
        if record.url.startswith(channel.here):
            record.url = channel.url + record.url.removeprefix(channel.here)
            record.channel = channel.url
    record.indexed_timestamp = None
    name = f"{record.name.normalized}-{record.version}-{record.build}"
    if not _FILE.fullmatch(name):  # conda keeps a record of each under its name
        what = f"invalid conda package: {name!r}"
        raise CondaError(what, "its name, version or build holds a character that none has")
    return Package(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        url=record.url,
        sha256=(record.sha256 or b"").hex(),
        md5=(record.md5 or b"").hex(),
        size=record.size or 0,
        depends=tuple(record.depends),
        constrains=tuple(record.constrains),
        record=record,
    )
