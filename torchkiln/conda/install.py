"""Install a variant's conda lock: every package by its sha256, torch's build as locked.

The folder is held and marked as those of `./kiln env` are (`torchkiln.environment`): one that was
interrupted is made anew, from packages that are in the cache by then.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from torchkiln import bootstrap
from torchkiln.conda import rattler
from torchkiln.conda.lock import channels_of, lock_path, read_lock, read_spec
from torchkiln.conda.solve import check_build, check_hashes
from torchkiln.environment import installer
from torchkiln.environment.claim import claimed, clear, remove
from torchkiln.environment.record import environment, read
from torchkiln.environment.wanted import locked
from torchkiln.errors import CondaError
from torchkiln.fetch import fetch
from torchkiln.files import sha256_of, write_atomic
from torchkiln.lockfile import digest, read_variant_lock
from torchkiln.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torchkiln.catalog import Variant
    from torchkiln.conda.channels import Channel
    from torchkiln.conda.rattler import Package
    from torchkiln.environment.record import Environment
    from torchkiln.lockfile import VariantLock
    from torchkiln.pipeline import Project

_STAMP: Final = "conda-lock.sha256"
_CHECKED: Final = ("__cuda", "__glibc", "__linux")


@dataclass(frozen=True, kw_only=True)
class Installed:
    """An environment of `packages` at `path`; `made` is whether that was just now."""

    path: Path
    packages: tuple[Package, ...]
    made: bool


def install_environment(project: Project, variant: Variant, path: Path) -> Installed:
    """Make the conda environment of `variant` at `path` from its lock, unless it is there.

    What is there and is not ours raises `EnvError` and stays as it is; a package that is not the
    locked one raises `CondaError`, as does a system that is too old for it. A driver that is
    missing or too old is told: the environment may be for another machine.
    """
    bootstrap.require_conda()
    packages = read_lock(project, variant)
    check_build(variant, packages)
    check_hashes(packages)
    _check_machine(variant, packages, rattler.this_machine(project.environ))
    env = environment(path)
    lock = read_variant_lock(project.root, project.catalog, variant)
    stamp = digest([lock_path(project, variant).read_text(encoding="utf-8"), lock.inputs])
    with claimed(env) as handle:
        if _read(env) == stamp:
            return Installed(path=env.root, packages=packages, made=False)
        if _read(env) or read(env):
            what = f"there is another environment at this path: {env.shown}"
            raise CondaError(what, hint="./kiln env ... --manager conda --path FOLDER")
        clear(env)
        try:
            _fill(project, variant, env, packages)
            if read_spec(project, variant).pip:
                _add_wheels(project, env, lock, handle)
        except BaseException:
            remove(env)
            raise
        write_atomic(env.own / _STAMP, f"{stamp}\n")
    return Installed(path=env.root, packages=packages, made=True)


def shown(done: Installed) -> str:
    """Return what was made, and how it is activated, for people."""
    made = "made" if done.made else "it was there"
    lines = [f"{done.path}: {len(done.packages)} conda packages, {made}", ""]
    return "\n".join([*lines, f"conda activate {shlex.quote(str(done.path))}"])


def as_json(done: Installed) -> dict[str, Any]:
    """Return it for machines; versions and builds of conda's packages by name."""
    return {
        "path": str(done.path),
        "manager": "conda",
        "made": done.made,
        "packages": {one.name: f"{one.version} {one.build}" for one in done.packages},
    }


def _read(env: Environment) -> str:
    path = env.own / _STAMP
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _fill(
    project: Project, variant: Variant, env: Environment, packages: Sequence[Package]
) -> None:
    found = channels_of(project, read_spec(project, variant))
    _check_folders(packages, found)
    cache = project.store.root / "conda" / "packages"
    project.store.make(cache)
    missing = sum(package.size for package in packages)
    say(f"installing {len(packages)} conda packages, {missing / 1e6:,.0f} MB, into {env.shown}")
    with project.store.reporting():
        rattler.install(packages, found, env.root, cache)
    _name_channels(packages, found, env)


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


def _add_wheels(project: Project, env: Environment, lock: VariantLock, handle: int) -> None:
    """Install the locked wheels, as `environment.yml` says: in the place of conda's pip too."""
    wanted = locked(lock, frozenset())
    fetch(project.store, lock.wheels, (), project.catalog.indexes, project.environ)
    say(f"installing {len(lock.wheels)} wheels into {env.shown}")
    with installer.wheelhouse(project.store, lock.wheels) as folder:
        source = ["--no-index", "--offline", "--find-links", str(folder)]
        environ = installer.plain(project.environ)
        installer.install(env, wanted.pins, source, environ, (handle,))


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


def _check_machine(
    variant: Variant, packages: Sequence[Package], machine: Mapping[str, str]
) -> None:
    """Tell of a driver that is missing or too old; a system that is too old is an error."""
    unmet = list(_unmet(packages, machine))
    system = [line for name, line in unmet if name != "__cuda"]
    if system:
        what = f"this machine's system is too old for the conda environment of `{variant.id}`"
        hint = f"./kiln build {variant.flag}, whose image brings its own"
        raise CondaError(what, "\n".join(system), hint)
    for line in dict.fromkeys(line for name, line in unmet if name == "__cuda"):
        say(f"torch is the build for CUDA {variant.cuda}, as locked, but will not run here: {line}")


def _unmet(packages: Sequence[Package], machine: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each need that this machine does not meet, and what is to be said of it."""
    needs: dict[str, Package] = {}
    for package in packages:
        for spec in filter(_is_checked, package.constrains):
            needs.setdefault(spec, package)
        # A dependency is the stronger: it is unmet too where there is nothing of the name.
        needs |= dict.fromkeys(filter(_is_checked, package.depends), package)
    for spec, package in sorted(needs.items(), key=lambda item: item[0]):
        name = next(one for one in _CHECKED if spec.startswith(one))
        if name not in machine:
            if spec in package.depends:
                yield name, f"{package} needs `{spec}`, and there is none"
        elif not rattler.fits(spec, name, machine[name]):
            yield name, f"{package} needs `{spec}`, and this is {machine[name]}"


def _is_checked(spec: str) -> bool:
    return spec.startswith(_CHECKED)
