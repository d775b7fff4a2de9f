"""Which CUDA runtime libraries an image carries, and whether each can be loaded.

Run as a program, this file loads the libraries named on its command line and prints, as JSON, the
error of each that could not be. A process of its own, so that they load by themselves, without what
torch has loaded, and a broken one ends nothing else.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIMIT_S: Final = 120
RUNTIME: Final = re.compile(
    r"lib(cudart|cublas|cudnn|cufft|cufile|cupti|curand|cusolver|cusparse|nccl|nvJitLink|nvToolsExt"
    r"|nvrtc|nvshmem)[\w-]*\.so(\.[\d.]+)?"
)
REQUIRED: Final = ("libcudart", "libcublas", "libcudnn")
"""No CUDA build of torch does without these."""

FROM_HOST: Final = re.compile(
    r"lib(cuda|nvidia-ml|ibverbs|rdmacm|mlx5|mpi|oshmem|pmix|pmi2?|ucp|ucs|uct|fabric)\.so"
)
"""What no image brings: the driver's libraries, and those of InfiniBand and MPI for plugins."""


def runtime_libraries(record: Iterable[str]) -> list[str]:
    """Return the paths in `record` that are CUDA runtime libraries, sorted."""
    return sorted(path for path in record if RUNTIME.fullmatch(PurePath(path).name))


def missing_required(paths: Iterable[str]) -> list[str]:
    """Return the libraries that every CUDA build needs and `paths` lack."""
    names = {PurePath(path).name.partition(".")[0] for path in paths}
    return [name for name in REQUIRED if name not in names]


def load_errors(paths: Sequence[str]) -> dict[str, str]:
    """Load `paths` in a child process; return the error of each file that fails, by file name."""
    command = [sys.executable, __file__, *paths]
    child = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    answer = child.stdout.splitlines()[-1:]
    if child.returncode != 0 or not answer:
        return {"python": f"the process that loads them ended with {child.returncode}"}
    errors: dict[str, str] = json.loads(answer[0])
    return errors


def waits_for_host(error: str) -> bool:
    """Return whether a loader's error says that only a library of the host is missing."""
    return FROM_HOST.match(error) is not None


def _load(paths: Sequence[str]) -> dict[str, str]:
    """Load each library, in rounds: one that needs another loads once that one is there."""
    waiting = list(paths)
    while True:
        errors = {path: error for path in waiting if (error := _load_error(path))}
        if len(errors) in {0, len(waiting)}:
            return {PurePath(path).name: error for path, error in errors.items()}
        waiting = list(errors)


def _load_error(path: str) -> str:
    """Load one library for as long as this process lives; return the loader's error."""
    try:
        ctypes.CDLL(path)
    except OSError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print("\n" + json.dumps(_load(sys.argv[1:])))
