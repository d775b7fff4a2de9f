"""What an image must be, found out from the image itself: its Python, its PyTorch, its CUDA."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Final

from torchkiln.cuda import version_cuda
from torchkiln.listing import FILE

if TYPE_CHECKING:
    from torchkiln.listing import ImageListing

_PYTHON: Final = re.compile(r"(.+/)?bin/python3?(\.\d+)?|.+-packages/.+\.py")
_TORCH: Final = re.compile(r".+-packages/torch-[^/]+\.dist-info/METADATA")
_VERSION: Final = re.compile(r".+-packages/torch/version\.py")
# Toolkits name the library by its full version; wheels by its ABI (libcudart.so.11.0 is in all of
# 11.x), and tell the version in their metadata's place.
_RUNTIMES: Final = (
    re.compile(r".+-packages/nvidia_cuda_runtime[^/]*-(\d+\.\d+)\.[^/]+\.dist-info/METADATA"),
    re.compile(r"(?:.+/)?libcudart(?:-[0-9a-f]+)?\.so\.(\d+\.\d+)\.\d+"),
)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What was found: versions, None where there is none; `cuda` as 12.1, `source` says where."""

    python: bool
    torch: str | None
    cuda: str | None
    source: str


def expect(image: ImageListing) -> Expectation:
    """Return what `image` holds; nothing of it is run."""
    cuda, source = _cuda(image)
    return Expectation(
        python=any(_PYTHON.fullmatch(path) for path in image.members),
        torch=_torch(image),
        cuda=cuda,
        source=source,
    )


def _torch(image: ImageListing) -> str | None:
    for path, member in image.members.items():
        if _TORCH.fullmatch(path):
            return HeaderParser().parsestr(member.text)["Version"] or None
    return None


def _cuda(image: ImageListing) -> tuple[str | None, str]:
    """Return the CUDA of torch's own build, else of the runtime library, else of a variable."""
    for path, member in image.members.items():
        if _VERSION.fullmatch(path):
            try:
                return version_cuda(member.data or b""), f"/{path}"
            except (SyntaxError, ValueError):
                continue
    for runtime in _RUNTIMES:
        for path, member in image.members.items():
            if member.kind == FILE and (match := runtime.fullmatch(path)):
                return match[1], f"/{path}"
    if match := re.match(r"\d+\.\d+", image.environment.get("CUDA_VERSION", "")):
        return match[0], "CUDA_VERSION"
    return None, "the lack of CUDA's libraries"
