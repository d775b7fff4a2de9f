"""Rules for what is installed: what the locks name, with those bytes, and nothing else.

Each is a pure function over an image's listing and a lock and returns the violations it finds.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Final

from installer.records import parse_record_file
from packaging.utils import canonicalize_name

from torchkiln.layer_rules import source_of
from torchkiln.listing import DIRECTORY, FILE
from torchkiln.packages import recorded_files

if TYPE_CHECKING:
    from torchkiln.listing import ImageListing, Member
    from torchkiln.lockfile import LockedWheel, VariantLock
    from torchkiln.venv import Venv

# Names of the libraries of CUDA's toolkit and of those that PyTorch builds against it.
_CUDA_LIBRARY: Final = re.compile(
    r"""lib(cuda(rt)?|cublas(Lt)?|nvblas|cudnn\w*|cufft\w*|curand|cusolver\w*|cusparse\w*|cufile\w*
    |cupti|nvperf_\w+|nvrtc(-builtins)?|nvjitlink|nvJitLink|nvjpeg|nvToolsExt|nvshmem\w*|nccl|nppi?\w*
    |caffe2_nvrtc|c10_cuda|torch_cuda\w*|nvfuser_codegen)[-.]""",
    re.VERBOSE,
)
# auditwheel puts eight digits of the library's hash into the names of those that it bundles.
_BUNDLED: Final = re.compile(r"[-.][0-9a-f]{8}(?=\.)")
_CUDA_BUILD: Final = re.compile(r"^cuda(?:: .+?)? = '?([\d.]+|None)'?$", re.MULTILINE)

_PROFILER: Final = (
    "triton/backends/nvidia/lib/cupti",
    "triton's wheel bundles CUPTI for its profiler Proton, which loads it by path when it is used",
)
SECOND_COPIES: Final = {
    "libcudart": (
        "torchvision.libs/",
        "torchvision's wheel bundles the runtime for its nvJPEG, under a SONAME of its own",
    ),
    "libcupti": _PROFILER,
    "libnvperf_host": _PROFILER,
    "libnvperf_target": _PROFILER,
}
"""Copies that a wheel's RECORD forces upon us: library, folder in site-packages, why."""


def wheel_faults(image: ImageListing, wheel: LockedWheel, venv: Venv) -> list[str]:
    """Check that the wheel is installed: its version, and its files as RECORD says."""
    found = _dist_infos(image, venv).get(wheel.name, [])
    if len(found) != 1:
        return [f"{wheel.name}: is installed {len(found)} times"]
    metadata = image.members[f"{found[0]}/METADATA"]
    version = HeaderParser().parsestr(metadata.text)["Version"]
    faults = [] if version == wheel.version else [f"{wheel.name}: has version {version}"]
    for path, value in recorded_files(image, found[0]):
        one = image.members.get(path)
        if one is None or one.kind != FILE:
            faults.append(f"/{path}: is missing")
        elif path != f"{found[0]}/RECORD" and value != _record_hash(one):
            faults.append(f"/{path}: has other bytes than RECORD says")
    return faults


def _record_hash(one: Member) -> str:
    """Return the file's hash as RECORD has it (base64url without padding)."""
    encoded = base64.urlsafe_b64encode(bytes.fromhex(one.sha256)).rstrip(b"=").decode()
    return f"sha256={encoded}"


def altered_files(image: ImageListing, wheel: LockedWheel, record: str, venv: Venv) -> list[str]:
    """Check the image against `record`, the RECORD inside the locked wheel itself.

    Scripts are left out, whose first line is made for the environment, and bytecode that a wheel
    ships, which is made anew.
    """
    data = f"{'-'.join(wheel.file.split('-')[:2])}.data/"
    faults = []
    for path, value, _ in parse_record_file(record.splitlines()):
        if path.startswith(data) or path.endswith((".dist-info/RECORD", ".pyc")):
            continue
        one = image.members.get(f"{venv.site}/{path}")
        if one is None or value != _record_hash(one):
            faults.append(f"/{venv.site}/{path}: is not what the locked wheel holds")
    return faults


def unlocked_wheels(image: ImageListing, lock: VariantLock, venv: Venv) -> list[str]:
    """Check that every file of the environment is a locked wheel's or the skeleton's."""
    locked = {wheel.name for wheel in lock.wheels}
    folders = _dist_infos(image, venv)
    faults = [f"{name}: is not in the lock" for name in sorted(set(folders) - locked)]
    skeleton = ("bin/python", "bin/python3", f"bin/python{venv.python}", "pyvenv.cfg")
    known = {f"{venv.prefix}/{path}" for path in skeleton}
    for paths in folders.values():
        for folder in paths:
            known |= {path for path, _ in recorded_files(image, folder)}
    return faults + [
        f"/{path}: belongs to no package"
        for path, one in image.members.items()
        if path.startswith(f"{venv.prefix}/") and one.kind != DIRECTORY and path not in known
        if not (path.endswith(".pyc") and source_of(path) in known)
    ]


def _dist_infos(image: ImageListing, venv: Venv) -> dict[str, list[str]]:
    """Return the .dist-info folders by the normalised name of their distribution."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in image.members:
        folder, _, name = path.rpartition("/")
        parent = folder.rpartition("/")[0]
        if name == "METADATA" and folder.endswith(".dist-info") and parent == venv.site:
            title = HeaderParser().parsestr(image.members[path].text)["Name"]
            found[canonicalize_name(title or "")].append(folder)
    return found


def cuda_build(image: ImageListing, cuda: str | None, venv: Venv) -> list[str]:
    """Check that PyTorch was built for the variant's CUDA (major.minor), None for the CPU."""
    version = image.members.get(f"{venv.site}/torch/version.py")
    found = _CUDA_BUILD.search(version.text) if version else None
    built = found[1] if found else "unknown"
    return [] if built == str(cuda) else [f"torch: was built for CUDA {built}, not {cuda}"]


def cuda_in_cpu_image(image: ImageListing, lock: VariantLock) -> list[str]:
    """Check for libraries of CUDA and for distributions that bring them."""
    wheels = [
        f"{wheel.name}: is locked"
        for wheel in lock.wheels
        if wheel.name.startswith(("nvidia-", "cuda-", "triton"))
    ]
    return wheels + [f"/{path}: is a CUDA library" for path in image.members if _cuda_library(path)]


def second_copies(image: ImageListing, venv: Venv) -> list[str]:
    """Check that each CUDA library is there once; `SECOND_COPIES` says which are not, and why."""
    found = defaultdict(list)
    for path, one in image.members.items():
        library = _cuda_library(path)
        folder = SECOND_COPIES.get(library, ("", ""))[0]
        excused = folder and path.startswith(f"{venv.site}/{folder}")
        if library and one.kind == FILE and not excused:
            found[library].append(f"/{path}")
    return [f"{name}: {' and '.join(paths)}" for name, paths in found.items() if paths[1:]]


def _cuda_library(path: str) -> str:
    """Return the CUDA library's name without version and `.so`; "" for every other file."""
    name = _BUNDLED.sub("", path.rpartition("/")[2])
    stem, suffix, _ = name.partition(".so")
    return stem if suffix and _CUDA_LIBRARY.match(name) else ""
