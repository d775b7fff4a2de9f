"""Where two images differ: path by path, in what they say of themselves, and by packages.

Times are not compared: builders set them as they like. Nor is the way in which the files are spread
over layers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from torchkiln.packages import Package, installed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torchkiln.listing import ImageListing, Member

_ABSENT: Final = "absent"
_XATTR: Final = "SCHILY.xattr."
_WITHOUT_MEANING: Final = "ArgsEscaped"  # outside of Windows (image-spec, config.md)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field of one path (or of the config) that is not the same."""

    path: str
    field: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class PackageDifference:
    """A package whose version or size is not the same; None where there is none of this name."""

    name: str
    first: Package | None
    second: Package | None


@dataclass(frozen=True, kw_only=True)
class ImageDiff:
    """What was found; `paths` and `packages` are how many both images have together."""

    files: tuple[Difference, ...]
    config: tuple[Difference, ...]
    packages: tuple[PackageDifference, ...]
    all_paths: int
    all_packages: int

    @property
    def same(self) -> bool:
        """Tell whether nothing differs."""
        return not (self.files or self.config or self.packages)


def image_diff(first: ImageListing, second: ImageListing) -> ImageDiff:
    """Compare what two images hold and say."""
    packages = _by_name(first), _by_name(second)
    return ImageDiff(
        files=tuple(_files(first.members, second.members)),
        config=tuple(_texts("config", _config(first), _config(second))),
        packages=tuple(
            PackageDifference(name=name, first=packages[0].get(key), second=packages[1].get(key))
            for key in sorted(packages[0].keys() | packages[1].keys())
            for name in [key[1]]
            if packages[0].get(key) != packages[1].get(key)
        ),
        all_paths=len(first.members.keys() | second.members.keys()),
        all_packages=len(packages[0].keys() | packages[1].keys()),
    )


def as_json(diff: ImageDiff) -> dict[str, Any]:
    """Return the comparison as `diff --json` prints it."""
    return {"same": diff.same, **asdict(diff)}


def _by_name(image: ImageListing) -> dict[tuple[str, str], Package]:
    return {(package.kind, package.name): package for package in installed(image)}


def _files(first: Mapping[str, Member], second: Mapping[str, Member]) -> Iterator[Difference]:
    for path in sorted(first.keys() | second.keys()):
        one, other = first.get(path), second.get(path)
        if one and other:
            yield from _texts(f"/{path}", _fields(one), _fields(other))
        elif path:  # the root itself is in some archives and not in others
            present = (one.kind, _ABSENT) if one else (_ABSENT, other.kind if other else "")
            yield Difference(path=f"/{path}", field="presence", first=present[0], second=present[1])


def _fields(member: Member) -> dict[str, str]:
    """Return what is compared of a member."""
    fields = {
        "kind": member.kind,
        "mode": f"{member.mode:04o}",
        "owner": f"{member.uid}:{member.gid}",
        "target": member.target,
        "size": str(member.size),
        "content": member.sha256,
    }
    attributes = [name for name in member.extensions if name.startswith(_XATTR)]
    return fields | {name.removeprefix(_XATTR): "set" for name in attributes}


def _config(image: ImageListing) -> dict[str, str]:
    """Return the config as one flat mapping, in the image spec's own words (config.md)."""
    found = {
        "os": str(image.config.get("os", "")),
        "architecture": str(image.config.get("architecture", "")),
    }
    for name, value in image.runtime.items():
        if name == _WITHOUT_MEANING:
            continue
        if name == "Env":
            found |= {f"Env.{key}": text for key, text in image.environment.items()}
        elif isinstance(value, dict):
            found |= {f"{name}.{key}": _text(text) for key, text in value.items()}
        elif value:
            found[name] = _text(value)
    return found


def _text(value: Any) -> str:  # noqa: ANN401 - what JSON can hold
    return value if isinstance(value, str) else repr(value)


def _texts(path: str, first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name, _ABSENT), second.get(name, _ABSENT)
        if one != other:
            yield Difference(path=path, field=name, first=one, second=other)
