"""The 12-point contract of an image that runs anywhere: what of it the layers tell.

Each point is a pure function over an image's listing that returns the violations it finds; what
needs a running container is in `tests/image/test_image_contract.py`. The points come from what
clusters do to images: Apptainer, enroot and pyxis, Kubernetes and OpenShift, Podman without root.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from torchkiln import layer_rules
from torchkiln.listing import DIRECTORY, FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.listing import ImageListing

WRITABLE: Final = "/tmp"  # noqa: S108 - the one place that is writable everywhere
CACHE_VARIABLES: Final = (
    "HOME",
    "XDG_CACHE_HOME",
    "MPLCONFIGDIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
)
HIDDEN: Final = ("dev", "home", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp")
"""What some runtime mounts something over: nothing that an image needs may lie there."""

DRIVER_FOLDERS: Final = ("/usr/local/nvidia/lib", "/usr/local/nvidia/lib64")
APPTAINER_LIBRARIES: Final = "/.singularity.d/libs"
_PROGRAMS: Final = ("bin/sh", "sbin/ldconfig", "usr/bin/getent")
_CERTIFICATES: Final = "etc/ssl/certs/ca-certificates.crt"
_SKELETON: Final = ("root/.bashrc", "root/.profile")  # base-files' own
LAUNCHER_VARIABLES: Final = (
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
    "RANK",
    "WORLD_SIZE",
)
MAX_LAYERS: Final = 60
_OCI: Final = "application/vnd.oci.image"


def user(image: ImageListing) -> list[str]:
    """Check point 1: a numeric user with group 0, who may read everything but /root."""
    root = image.members.get("")
    faults = numeric_user(image)
    if root is not None and root.mode != 0o755:  # noqa: PLR2004
        faults.append(f"/: has mode {root.mode:04o}")
    return [*faults, *layer_rules.permissions(image), *layer_rules.owners(image)]


def numeric_user(image: ImageListing) -> list[str]:
    """Check that the user is a number, not root's, and its group 0."""
    value = image.runtime.get("User") or ""
    return [] if re.fullmatch(r"[1-9]\d*:0", value) else [f"User: is `{value}`, not `<uid>:0`"]


def places(image: ImageListing) -> list[str]:
    """Check point 2: nothing that is needed lies where runtimes mount their own."""
    faults = [
        f"/{path}: lies below a folder that runtimes mount over"
        for path, one in image.members.items()
        if path.startswith(tuple(f"{folder}/" for folder in HIDDEN)) and path not in _SKELETON
        if one.kind != DIRECTORY
    ]
    programs = [*image.entrypoint, *image.environment.get("PATH", "").split(":")]
    return faults + [
        f"{path}: runtimes mount over it"
        for path in programs
        if path.lstrip("/").startswith(tuple(f"{folder}/" for folder in HIDDEN))
    ]


def read_only(image: ImageListing) -> list[str]:
    """Check point 3: bytecode is there and never written, because the root may be read-only."""
    return [*_expect(image, "PYTHONDONTWRITEBYTECODE", "1"), *layer_rules.bytecode(image)]


def any_uid(image: ImageListing, places: Sequence[str] = CACHE_VARIABLES) -> list[str]:
    """Check point 4: a uid without passwd entry has a name, a home and `places` for caches."""
    faults = [
        f"{name}: is not set" for name in ("USER", "LOGNAME") if not image.environment.get(name)
    ]
    return faults + [
        f"{name}: is `{value}`, not below {WRITABLE}"
        for name in places
        for value in [image.environment.get(name, "")]
        if not f"{value}/".startswith(f"{WRITABLE}/")
    ]


def no_shadows(image: ImageListing) -> list[str]:
    """Check point 5: neither the user's site-packages nor a library path hides the image's own."""
    faults = _expect(image, "PYTHONNOUSERSITE", "1")
    if "PYTHONPATH" in image.environment:
        faults.append("PYTHONPATH: is set")
    paths = image.environment.get("LD_LIBRARY_PATH", "")
    return faults + [
        f"LD_LIBRARY_PATH: holds `{path}`, which may hide the libraries of the wheels"
        for path in filter(None, paths.split(":"))
        if path not in DRIVER_FOLDERS
    ]


def nvidia_variables(image: ImageListing, cuda: str | None) -> list[str]:
    """Check point 6: a CUDA image asks for GPUs and a driver, a CPU image for nothing."""
    if cuda is None:
        return [f"{name}: is set" for name in image.environment if name.startswith("NVIDIA_")]
    require = image.environment.get("NVIDIA_REQUIRE_CUDA", "")
    faults = [] if require.startswith(f"cuda>={cuda} driver>=") else ["NVIDIA_REQUIRE_CUDA: is off"]
    return [
        *_expect(image, "NVIDIA_VISIBLE_DEVICES", "all"),
        *_expect(image, "NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
        *faults,
    ]


def driver_libraries(image: ImageListing, cuda: str | None) -> list[str]:
    """Check point 7: ldconfig knows the folders where runtimes put the driver's libraries."""
    faults = _missing(image, ("etc/ld.so.conf", "sbin/ldconfig"))
    if "etc/ld.so.conf.d" not in image.members:
        faults.append("/etc/ld.so.conf.d: is missing")
    config = image.members.get("etc/ld.so.conf.d/nvidia.conf")
    if cuda is None:
        return [*faults, "/etc/ld.so.conf.d/nvidia.conf: is there"] if config else faults
    named = config.text.split() if config else []
    return faults + [
        f"/etc/ld.so.conf.d/nvidia.conf: does not name {folder}"
        for folder in (*DRIVER_FOLDERS, APPTAINER_LIBRARIES)
        if folder not in named
    ]


def launchers(image: ImageListing, torch: str) -> list[str]:
    """Check point 8: enroot's hook finds PyTorch; what launchers set is left to them."""
    set_ones = [f"{name}: is set" for name in LAUNCHER_VARIABLES if name in image.environment]
    return [*_expect(image, "PYTORCH_VERSION", torch), *set_ones]


def entry_point(image: ImageListing) -> list[str]:
    """Check point 9: the entry point is a list, is in the image, and gives way to the command."""
    entry = image.runtime.get("Entrypoint")
    if not isinstance(entry, list) or len(entry) != 1 or not entry[0].startswith("/"):
        return [f"Entrypoint: is {entry!r}, not a list of one absolute path"]
    program = image.file(entry[0].lstrip("/"))
    if program is None or program.kind != FILE or not program.mode & 0o001:
        return [f"{entry[0]}: is no program"]
    last = program.text.rstrip().rpartition("\n")[2]
    return [] if last == 'exec "$@"' else [f'{entry[0]}: does not end with `exec "$@"`']


def plain_system(image: ImageListing) -> list[str]:
    """Check point 10: the programs that runtimes call are there, and nothing that needs root."""
    return programs(image) + [
        fault
        for rule in (
            layer_rules.set_id,
            layer_rules.kinds,
            layer_rules.headers,
            layer_rules.names,
            layer_rules.behind_links,
            layer_rules.case_clashes,
        )
        for fault in rule(image)
    ]


def programs(image: ImageListing) -> list[str]:
    """Check that what runtimes and HTTPS need is there: shell, ldconfig, getent, certificates."""
    return _missing(image, (*_PROGRAMS, _CERTIFICATES))


def form(image: ImageListing) -> list[str]:
    """Check point 11: one manifest, OCI media types, gzip, not too many layers, honest digests."""
    found = [
        (image.index.get("mediaType"), f"{_OCI}.index.v1+json"),
        (image.manifest.get("mediaType"), f"{_OCI}.manifest.v1+json"),
        (image.manifest["config"]["mediaType"], f"{_OCI}.config.v1+json"),
        *((entry["mediaType"], f"{_OCI}.layer.v1.tar+gzip") for entry in image.manifest["layers"]),
    ]
    faults = [f"media type: is {one}, not {other}" for one, other in found if one != other]
    platforms = [str(entry.get("platform")) for entry in image.index["manifests"]]
    if len(platforms) != len(set(platforms)):
        faults.append(f"index: has {len(platforms)} manifests for {len(set(platforms))} platforms")
    if len(image.layers) > MAX_LAYERS:
        faults.append(f"manifest: has {len(image.layers)} layers")
    return faults + layer_rules.digests(image)


def limits(image: ImageListing) -> list[str]:
    """Check point 12: limits and shared memory are the host's, so the image sets neither."""
    return [
        f"/{path}: would set limits or shared memory"
        for path, one in image.members.items()
        if re.fullmatch(r"etc/security/limits\.d/.+|dev/shm(/.*)?", path) or _sets_ulimit(one.text)
    ]


def _sets_ulimit(text: str) -> bool:
    return re.search(r"^\s*ulimit -[a-z] *[\d\w]", text, re.MULTILINE) is not None


def _expect(image: ImageListing, name: str, value: str) -> list[str]:
    actual = image.environment.get(name)
    return [] if actual == value else [f"{name}: is {actual!r}, not {value!r}"]


def _missing(image: ImageListing, paths: tuple[str, ...]) -> list[str]:
    found = {path: image.file(path) for path in paths}
    return [
        f"/{path}: is missing or empty" for path, one in found.items() if not (one and one.size)
    ]
