"""What torch says of itself: imported in a process of its own, by the Python that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchkiln.doctor.ask import ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.doctor.environment import Environment

_QUESTION = """\
import json, re, sys
import torch
def mapped(names):
    try:
        with open("/proc/self/maps") as maps:
            return sorted(set(re.findall(r"/.*/(?:%s)[^/\\n]*" % names, maps.read())))
    except OSError:
        return []
found = {
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "hip": getattr(torch.version, "hip", None),
    "file": torch.__file__,
    "available": False,
    "archs": [],
    "error": "",
    "cudnn": "",
    "cudnn_library": "",
    "openmp": mapped("libgomp|libiomp|libomp"),
}
try:
    found["available"] = torch.cuda.is_available()
    if found["cuda"]:
        found["archs"] = torch.cuda.get_arch_list()
        torch.zeros(1, device="cuda")
except BaseException as error:
    found["error"] = "{}: {}".format(type(error).__name__, error)
try:
    if found["cuda"]:
        torch.backends.cudnn.version()
except Exception as error:
    found["cudnn"] = str(error) if isinstance(error, RuntimeError) else ""
    found["cudnn_library"] = (mapped("libcudnn") + [""])[0]
print(json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class TorchProbe:
    """What torch answered. `failure` is why it could not be imported; the rest is then empty.

    `cuda` is the CUDA that it was built with, "" for a CPU build; `error` is what putting a number
    on the GPU raised, `cudnn` what it says of a cuDNN that does not fit, `cudnn_library` the file
    that it loaded then, where that is known. `openmp` has the paths of the OpenMP runtimes that it
    loaded. `output` is all that it wrote to stderr.
    """

    version: str = ""
    cuda: str = ""
    hip: str = ""
    file: str = ""
    available: bool = False
    archs: tuple[str, ...] = ()
    error: str = ""
    cudnn: str = ""
    cudnn_library: str = ""
    openmp: tuple[str, ...] = ()
    failure: str = ""
    output: str = ""


def ask_torch(environment: Environment, environ: Mapping[str, str], patience: float) -> TorchProbe:
    """Import torch in `environment` and return what it says; `patience` is in seconds."""
    answer = ask(environment.python, _QUESTION, environ, patience)
    found: dict[str, Any] | None = answer.value
    if found is None:
        return TorchProbe(failure=answer.failure, output=answer.errors)
    return TorchProbe(
        version=found["version"],
        cuda=found["cuda"] or "",
        hip=found["hip"] or "",
        file=found["file"],
        available=found["available"],
        archs=tuple(found["archs"]),
        error=found["error"],
        cudnn=found["cudnn"],
        cudnn_library=found["cudnn_library"],
        openmp=tuple(found["openmp"]),
        output=answer.errors,
    )
