"""What the locked wheels of an image say of themselves: licences, requirements, files."""

from __future__ import annotations

import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from torchkiln.plan import plan_layers
from torchkiln.proof import licences
from torchkiln.proof.part import Bundled, Part, purl
from torchkiln.resolve import torch_version
from torchkiln.wheel import read_wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from email.message import Message

    from torchkiln.engine.job import Job
    from torchkiln.layer import Entry
    from torchkiln.lockfile import LockedWheel

_METADATA: Final = re.compile(r".+/[^/]+\.dist-info/METADATA")


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A wheel with its METADATA, and that of the distributions inside it by path."""

    locked: LockedWheel
    entries: tuple[Entry, ...]
    metadata: Message
    inside: dict[str, Message]


def wheel_parts(job: Job, advance: Callable[[int], object] = lambda _: None) -> list[Part]:
    """Return the parts that are wheels, all of them in the store.

    `advance` is told of each wheel's size when it has been read.
    """

    def read(locked: LockedWheel) -> _Read:
        found = _read(job, locked)
        advance(locked.size)
        return found

    with ThreadPoolExecutor() as pool:
        wheels = list(pool.map(read, job.lock.wheels))
    asked = _asked(job)
    needs = needed(
        {one.locked.name: one.metadata.get_all("Requires-Dist", []) for one in wheels},
        [text for texts in asked.values() for _, text in texts],
        marker_environment(job.base.python, job.python_package),
    )
    layers = {wheel.name: group.name for group in plan_layers(job.lock) for wheel in group.wheels}
    purls = {one.locked.name: _purl(one.locked) for one in wheels}
    return [
        _part(
            one,
            layer=layers[one.locked.name],
            needs=tuple(purls[name] for name in sorted(needs[one.locked.name])),
            asked=tuple(f"{key}: {text}" for key, text in asked.get(one.locked.name, ())),
        )
        for one in wheels
    ]


def needed(
    requires: Mapping[str, Sequence[str]], asked: Iterable[str], environment: Mapping[str, str]
) -> dict[str, set[str]]:
    """Return the distributions that each one needs, among those in `requires` (Requires-Dist).

    An extra counts where something that is itself needed asks for it, beginning with `asked`.
    """
    found: dict[str, set[str]] = {name: set() for name in requires}
    todo = [_requirement(text) for text in asked]
    done: dict[str, set[str]] = defaultdict(set)
    while todo:
        wanted = todo.pop()
        owner = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras} - done[owner]:
            done[owner].add(extra)
            for one in map(_requirement, requires.get(owner, ())):
                name = canonicalize_name(one.name)
                applies = one.marker is None or one.marker.evaluate({**environment, "extra": extra})
                if applies and name in requires and name != owner:
                    found[owner].add(name)
                if applies:
                    todo.append(one)
    return found


def _requirement(text: str) -> Requirement:
    """Return a requirement; one in no valid form, which uv resolved all the same, by its name."""
    try:
        return Requirement(text)
    except InvalidRequirement:
        return Requirement(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0])


def marker_environment(python: str, package: str) -> dict[str, str]:
    """Return what markers see in the image (PEP 508): `package` is the version of its Python."""
    version = package.partition("-")[0]
    return {
        "implementation_name": "cpython",
        "implementation_version": version,
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": version,
        "python_version": python,
        "sys_platform": "linux",
    }


def _asked(job: Job) -> dict[str, list[tuple[str, str]]]:
    """Return what the catalog asks for, by distribution: the key and the requirement."""
    torch = ("torch", f"torch=={torch_version(job.variant)}")
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, text in (torch, *(("packages", text) for text in job.variant.packages)):
        name = canonicalize_name(Requirement(text).name)
        found[name].append((f"variants.{job.variant.id}.{key}", text))
    return found


def _read(job: Job, locked: LockedWheel) -> _Read:
    wheel = read_wheel(job.store.checked(locked.sha256, locked.file), locked, job.venv)
    found = {
        entry.path: HeaderParser().parsestr(b"".join(entry.chunks()).decode(errors="replace"))
        for entry in wheel.entries
        if entry.chunks and _METADATA.fullmatch(entry.path)
    }
    # Its own lies in site-packages, those of what it carries along lie deeper.
    own = next(path for path in found if path.count("/") == job.venv.site.count("/") + 2)
    return _Read(locked=locked, entries=wheel.entries, metadata=found.pop(own), inside=dict(found))


def _purl(locked: LockedWheel) -> str:
    return purl("pypi", locked.name, locked.version)


def _part(one: _Read, *, layer: str, needs: tuple[str, ...], asked: tuple[str, ...]) -> Part:
    metadata = one.metadata
    return Part(
        name=one.locked.name,
        version=one.locked.version,
        purl=_purl(one.locked),
        sha256=one.locked.sha256,
        size=one.locked.size,
        unpacked=sum(entry.size for entry in one.entries),
        author=metadata["Author"] or metadata["Author-email"] or metadata["Maintainer"] or "",
        licences=licences.of_wheel(metadata),
        layer=layer,
        paths=tuple(f"/{entry.path}" for entry in one.entries),
        needs=needs,
        asked=asked,
        bundled=tuple(
            _bundled(path, inner)
            for path, inner in sorted(one.inside.items())
            if inner["Name"] and inner["Version"]
        ),
    )


def _bundled(path: str, metadata: Message) -> Bundled:
    name, version = canonicalize_name(metadata["Name"]), metadata["Version"]
    return Bundled(
        name=name,
        version=version,
        purl=purl("pypi", name, version),
        licences=licences.of_wheel(metadata),
        path=f"/{path.rpartition('/')[0]}",
    )
