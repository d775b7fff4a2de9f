"""The points of the contract as they hold for any image, whoever built it.

`torchkiln.contract` is stricter where Torchkiln's own images promise more: every owner 0:0, one
form of each header, one way to end an entry point. Here is a fault only what breaks somewhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from torchkiln import contract, layer_rules
from torchkiln.contract import LAUNCHER_VARIABLES
from torchkiln.listing import DIRECTORY, FILE, HARD_LINK, SYMLINK

if TYPE_CHECKING:
    from torchkiln.expectation import Expectation
    from torchkiln.listing import ImageListing, Member

_SHADOW: Final = re.compile(r"etc/g?shadow-?")  # read by nobody but login
_MAX_ID: Final = 65535  # engines without root map 65536 ids
_TORCH_CACHES: Final = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_PYTHON_CACHES: Final = ("MPLCONFIGDIR",)
_ATTRIBUTES: Final = re.compile(r"(SCHILY\.xattr|LIBARCHIVE\.xattr|SCHILY\.acl)\..+")
_INITS: Final = frozenset({"catatonit", "docker-init", "dumb-init", "tini", "tini-static"})
_HANDS_OVER: Final = re.compile(r'^\s*exec\b.*"(\$@|\$\{@\})"', re.MULTILINE)
_OCI: Final = "application/vnd.oci.image"
_LAYERS: Final = frozenset({f"{_OCI}.layer.v1.tar", f"{_OCI}.layer.v1.tar+gzip"})


def user(image: ImageListing) -> list[str]:
    """Check point 1: a numeric user with group 0, who may read all that a container sees."""
    return [
        *contract.numeric_user(image),
        *(
            f"/{path}: belongs to {one.uid}:{one.gid}, engines without root know ids to {_MAX_ID}"
            for path, one in image.members.items()
            if max(one.uid, one.gid) > _MAX_ID
        ),
        *(
            f"/{path}: has mode {one.mode:04o}"
            for path, one in image.members.items()
            if not (path == "root" or path.startswith("root/") or _SHADOW.fullmatch(path))
            if not _anyone_reads(one)
        ),
    ]


def _anyone_reads(one: Member) -> bool:
    if one.kind == DIRECTORY:
        return one.mode & 0o205 == 0o205  # noqa: PLR2004 - its owner may write: it can be removed
    return one.kind != FILE or bool(one.mode & 0o004)


def any_uid(image: ImageListing, found: Expectation) -> list[str]:
    """Check point 4, for the caches of what the image holds."""
    caches = ("HOME", "XDG_CACHE_HOME", *(_PYTHON_CACHES if found.python else ()))
    return contract.any_uid(image, (*caches, *(_TORCH_CACHES if found.torch else ())))


def no_shadows(image: ImageListing, found: Expectation) -> list[str]:
    """Check point 5; what Python reads matters where there is one."""
    faults = contract.no_shadows(image)
    return [one for one in faults if found.python or not one.startswith("PYTHON")]


def nvidia_variables(image: ImageListing, cuda: str | None) -> list[str]:
    """Check point 6: a CUDA image asks for GPUs and no more of a driver than its CUDA needs."""
    if cuda is None:
        return contract.nvidia_variables(image, None)
    faults = []
    if image.environment.get("NVIDIA_VISIBLE_DEVICES") in {None, "", "void", "none"}:
        faults.append("NVIDIA_VISIBLE_DEVICES: asks for no GPU")
    said = image.environment.get("NVIDIA_DRIVER_CAPABILITIES", "")
    faults += [
        f"NVIDIA_DRIVER_CAPABILITIES: lacks `{name}`"
        for name in ("compute", "utility")
        if not {name, "all"} & set(said.split(","))
    ]
    require = image.environment.get("NVIDIA_REQUIRE_CUDA", "")
    asked = [_numbers(version) for version in re.findall(r"cuda>=(\d+\.\d+)", require)]
    if not any(one[0] == _numbers(cuda)[0] and one <= _numbers(cuda) for one in asked):
        faults.append(f"NVIDIA_REQUIRE_CUDA: is `{require}`, not `cuda>={cuda} driver>=...`")
    return faults


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def driver_libraries(image: ImageListing) -> list[str]:
    """Check point 7: some file of ldconfig's names the places of the driver's libraries."""
    faults = [
        f"/{path}: is missing"
        for path in ("etc/ld.so.conf", "etc/ld.so.conf.d", "sbin/ldconfig")
        if image.file(path) is None
    ]
    texts = [
        member.text
        for path, member in image.members.items()
        if re.fullmatch(r"etc/ld\.so\.conf(\.d/[^/]+\.conf)?", path)
    ]
    named = {word for text in texts for word in text.split()}
    return faults + [
        f"/etc/ld.so.conf.d: names no {folder}"
        for folder in (*contract.DRIVER_FOLDERS, contract.APPTAINER_LIBRARIES)
        if folder not in named
    ]


def launchers(image: ImageListing, torch: str | None) -> list[str]:
    """Check point 8: enroot's hook finds PyTorch; what launchers set is left to them."""
    faults = [f"{name}: is set" for name in LAUNCHER_VARIABLES if name in image.environment]
    said = image.environment.get("PYTORCH_VERSION")
    if torch and _public(said or "") != _public(torch):
        faults.append(f"PYTORCH_VERSION: is {said!r}, torch is {torch}")
    return faults


def _public(version: str) -> str:
    """Return a version without what builds add to it (`+cu117`)."""
    try:
        return Version(version).public
    except InvalidVersion:
        return version


def entry_point(image: ImageListing) -> list[str]:
    """Check point 9: the entry point is in the image and hands over to the command that it gets."""
    words = image.entrypoint
    if isinstance(image.runtime.get("Entrypoint"), str) or words[:2] == ["/bin/sh", "-c"]:
        return [f"Entrypoint: is `{words[-1]}` for a shell, not a list of words"]
    program = _program(image, words[0])
    if program is None or program.kind != FILE or not program.mode & 0o001:
        return [f"{words[0]}: is no program of the image that anyone may run"]
    if words[0].rpartition("/")[2] in _INITS:
        return []
    if len(words) > 1:
        return [f"Entrypoint: is {words}, which has words of its own before the command"]
    if not program.text:
        return [f"{words[0]}: is no script, so nothing shows that it runs the command"]
    return [] if _HANDS_OVER.search(program.text) else [f'{words[0]}: has no `exec "$@"`']


def _program(image: ImageListing, name: str) -> Member | None:
    """Return the program that a container finds under `name`, by PATH where it has no slash."""
    folders = [""] if "/" in name else image.environment.get("PATH", "").split(":")
    paths = (f"{folder}/{name}".lstrip("/") for folder in folders)
    return next((found for path in paths if (found := image.file(path))), None)


def plain_system(image: ImageListing) -> list[str]:
    """Check point 10: the programs that runtimes call are there, and nothing that needs root."""
    return [
        *contract.programs(image),
        *layer_rules.set_id(image),
        *_special(image),
        *layer_rules.behind_links(image),
        *layer_rules.case_clashes(image),
    ]


def _special(image: ImageListing) -> list[str]:
    """Return what engines without root cannot unpack, or lose without a word."""
    faults = []
    for layer in image.layers:
        files = {one.path for one in layer.members}
        for one in layer.members:
            if one.kind not in {FILE, DIRECTORY, SYMLINK, HARD_LINK}:
                faults.append(f"/{one.path}: is a {one.kind}")
            if one.kind == HARD_LINK and one.target.removeprefix("./").strip("/") not in files:
                faults.append(f"/{one.path}: is a hard link to another layer: /{one.target}")
            if ".." in one.path.split("/"):
                faults.append(f"/{one.path}: leaves the image")
            faults += [
                f"/{one.path}: has {name}, a capability or other attribute"
                for name in one.extensions
                if _ATTRIBUTES.fullmatch(name)
            ]
    return faults


def form(image: ImageListing) -> list[str]:
    """Check point 11 for what can be told of the image: an archive may have no manifest."""
    faults = [f"media type: is {one}" for one in _media_types(image)]
    platforms = [str(entry.get("platform")) for entry in image.index.get("manifests", ())]
    if len(platforms) != len(set(platforms)):
        faults.append(f"index: has {len(platforms)} manifests for {len(set(platforms))} platforms")
    if len(image.layers) > contract.MAX_LAYERS:
        faults.append(f"layers: there are {len(image.layers)}, not {contract.MAX_LAYERS} at most")
    return faults + layer_rules.digests(image)


def limits(image: ImageListing) -> list[str]:
    """Check point 12; an empty /dev/shm is only the place where the host's is mounted."""
    folders = {f"/{path}" for path, one in image.members.items() if one.kind == DIRECTORY}
    return [one for one in contract.limits(image) if one.partition(":")[0] not in folders]


def _media_types(image: ImageListing) -> list[str]:
    """Return each media type that is not OCI's; it may be left out but in descriptors."""
    manifest = image.manifest
    if not manifest:
        return []
    kind = f"{_OCI}.manifest.v1+json"
    found = [] if manifest.get("mediaType", kind) == kind else [str(manifest["mediaType"])]
    config = manifest["config"].get("mediaType")
    found += [] if config == f"{_OCI}.config.v1+json" else [str(config)]
    layers = (str(layer.get("mediaType")) for layer in manifest["layers"])
    return list(dict.fromkeys([*found, *(layer for layer in layers if layer not in _LAYERS)]))
