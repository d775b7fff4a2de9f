"""Put a lock's packages and wheels into a prefix, each checked by its hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from torchkiln.conda import rattler
from torchkiln.conda.lock import channels_of, read_spec
from torchkiln.environment.make import fill
from torchkiln.environment.wanted import locked
from torchkiln.errors import CondaError
from torchkiln.files import sha256_of, write_atomic
from torchkiln.lockfile import variant_lock_path
from torchkiln.progress import say
from torchkiln.projects import use
from torchkiln.reports import megabytes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torchkiln.catalog import Variant
    from torchkiln.conda.channels import Channel
    from torchkiln.conda.rattler import Package
    from torchkiln.environment.make import Work
    from torchkiln.environment.record import Environment
    from torchkiln.lockfile import VariantLock
    from torchkiln.pipeline import Project


def put_packages(
    project: Project,
    variant: Variant,
    env: Environment,
    packages: Sequence[Package],
    again: Collection[str] = (),
) -> None:
    """Install what of a lock's `packages` is not there, and those whose name is in `again` anew.

    What is there beside the lock stays.
    """
    found = channels_of(project, read_spec(project, variant))
    _check_folders(packages, found)
    cache = project.store.root / "conda" / "packages"
    project.store.make(cache)
    lock = variant_lock_path(project.root, variant.id)
    use(project.store, project.root, lock, conda=map(str, packages))
    there = read_records(env)
    coming = [one for one in packages if one.name in again or str(one) not in there]
    size = sum(package.size for package in coming)
    say(f"installing {len(coming)} conda packages, {megabytes(size)}, into {env.shown}")
    names = {package.name for package in packages}
    foreign = {record["name"] for record in there.values()} - names
    with project.store.reporting():
        rattler.install(packages, found, env.root, cache, again=again, foreign=foreign)
    _name_channels(packages, found, env)


def put_wheels(work: Work, lock: VariantLock, names: Collection[str] | None = None) -> None:
    """Install the locked wheels, or those of `names`, also in the place of conda's pip."""
    wanted = locked(lock, frozenset())
    fill(work, [pin for pin in wanted.pins if names is None or pin.name in names], wanted)


def read_records(env: Environment) -> dict[str, dict[str, Any]]:
    """Return conda's records of what is installed, by `name-version-build`.

    One that cannot be read is left out: the package is as good as missing.
    """
    found = map(_read_record, _record_paths(env))
    return {"{name}-{version}-{build}".format(**one): one for one in found if one}


def drop_unreadable(env: Environment) -> None:
    """Remove the records that cannot be read, over which py-rattler stumbles."""
    for path in _record_paths(env):
        if _read_record(path) is None:
            path.unlink()


def _record_paths(env: Environment) -> list[Path]:
    return sorted((env.root / "conda-meta").glob("*.json"))


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if {"name", "version", "build", "paths_data"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _name_channels(
    packages: Sequence[Package], channels: Sequence[Channel], env: Environment
) -> None:
    """Write the channels' own addresses into conda's records: a mirror's may hold a password."""
    for package in packages:
        path = env.root / "conda-meta" / f"{package}.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        channel = next(one.url for one in channels if package.url.startswith(one.url))
        own = {"url": package.url, "channel": channel}
        write_atomic(path, f"{json.dumps(record | own, indent=2)}\n")


def _check_folders(packages: Sequence[Package], channels: Sequence[Channel]) -> None:
    """Hash what comes from a folder, which py-rattler does not; all faults at once."""
    faults = []
    for package in packages:
        path = _path(package, channels)
        if path is None:
            continue
        try:
            with path.open("rb") as stream:
                actual = sha256_of(stream)
        except OSError as error:
            faults.append(f"{package}: {error.strerror}: {path}")
            continue
        if actual != package.sha256:
            faults.append(f"{package}: its sha256 is {actual}, not {package.sha256}: {path}")
    if faults:
        what = (
            "a conda package is not the locked one"
            if len(faults) == 1
            else (f"{len(faults)} conda packages are not the locked ones")
        )
        hint = "copy the channel again, or lock what it has now: ./kiln lock --conda --all"
        raise CondaError(what, "\n".join(faults), hint)


def _path(package: Package, channels: Sequence[Channel]) -> Path | None:
    """Return where a package lies on this machine, None where it is to be fetched."""
    for channel in channels:
        if package.url.startswith(channel.url):
            parts = urlsplit(channel.here + package.url.removeprefix(channel.url))
            return Path(unquote(parts.path)) if parts.scheme == "file" else None
    return None
