"""Checks of torch's CUDA build, of the runtime libraries, and of the GPUs that it sees."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from devices import device_signs, devices_hidden, supported
from image import Image
from libraries import load_errors, missing_required, runtime_libraries, waits_for_host
from packages import version_fits
from suite import check, failed, passed, skipped

if TYPE_CHECKING:
    from suite import Outcome

TOLERANCE: Final = 1e-4
"""For products of 512 terms in float32: rounding grows with the root of their number."""


@check("torch-version")
def torch_version(image: Image) -> Outcome:
    """Compare what torch says of itself with the variant."""
    actual = str(torch.__version__)
    if not version_fits(actual, image.torch):
        return failed(actual, f"the variant `{image.variant}` promises torch {image.torch}")
    return passed(actual)


@check("torch-cuda-build")
def torch_cuda_build(image: Image) -> Outcome:
    """Compare the CUDA that torch was built with with the variant's; None is a CPU build."""
    if torch.version.cuda != image.cuda:
        promised = f"CUDA {image.cuda}" if image.cuda else "a build without CUDA"
        return failed(str(torch.version.cuda), f"the variant `{image.variant}` promises {promised}")
    return passed(torch.version.cuda or "CPU only")


def locked_files(image: Image) -> dict[str, str]:
    """Return the files of the locked distributions: path in RECORD to absolute path."""
    records = [metadata.distribution(wheel.name).files or [] for wheel in image.wheels]
    return {str(file): str(file.locate()) for record in records for file in record}


@check("cuda-absent", applies=lambda image: not image.promises_cuda())
def cuda_absent(image: Image) -> Outcome:
    """Look for CUDA in a CPU image: not built in, not available, no library."""
    if paths := runtime_libraries(locked_files(image)):
        return failed(f"{len(paths)} libraries", f"this is a CPU image: {', '.join(paths)}")
    if torch.backends.cuda.is_built() or torch.cuda.is_available():
        return failed("CUDA in torch", "this is a CPU image, but its torch was built with CUDA")
    return passed("built without")


@check("cuda-libraries", applies=Image.promises_cuda)
def cuda_libraries(image: Image) -> Outcome:
    """Load every CUDA runtime library that the locked distributions brought."""
    files = locked_files(image)
    paths = runtime_libraries(files)
    if missing := missing_required(paths):
        return failed(f"{len(paths)} found", f"no locked wheel brings {', '.join(missing)}")
    errors = load_errors([files[path] for path in paths])
    waiting = {name: error for name, error in errors.items() if waits_for_host(error)}
    faults = [f"{name}: {error}" for name, error in errors.items() if name not in waiting]
    if faults:
        return failed(f"{len(faults)} do not load", "; ".join(faults))
    detail = f"for the host to complete: {', '.join(waiting)}" if waiting else ""
    return passed(f"{len(paths) - len(waiting)} load", detail)


def without_device(image: Image) -> Outcome | None:
    """Return why there is no GPU to ask, as a skip or a failure, or None where there is one.

    Only a host without GPU, or a user who hides it, is a reason to skip.
    """
    if torch.version.cuda is None:
        return failed("no CUDA", f"`{image.variant}` promises CUDA, its torch was built without")
    if torch.cuda.is_available():
        return None
    if devices_hidden(os.environ):
        return skipped("no device", "CUDA_VISIBLE_DEVICES hides every device")
    reason = _refusal()
    if signs := device_signs(Path("/")):
        hint = "pass the GPUs into the container, and see that the driver is new enough"
        return failed("GPU unusable", f"this host has {', '.join(signs)}, but {reason}; {hint}")
    return skipped("no device", f"no /dev/nvidia[0-9], no /proc/driver/nvidia/gpus; {reason}")


def _refusal() -> str:
    """Return torch's reason for not finding a device, and the loader's for not finding a driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no driver: {error}"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"torch says: {str(error).splitlines()[0]}"
    return "torch gives no reason"


@check("cuda-visible", applies=Image.promises_cuda)
def cuda_visible(image: Image) -> Outcome:
    """Ask torch for the GPUs that it sees."""
    if (nothing := without_device(image)) is not None:
        return nothing
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return passed(", ".join(names))


@check("cuda-capability", applies=Image.promises_cuda)
def cuda_capability(image: Image) -> Outcome:
    """Compare each GPU's compute capability with the architectures that torch was built for."""
    if (nothing := without_device(image)) is not None:
        return nothing
    archs = torch.cuda.get_arch_list()
    found = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    shown = ", ".join(f"{major}.{minor}" for major, minor in found)
    if not all(supported(archs, capability) for capability in found):
        return failed(shown, f"this torch has code for {' '.join(archs)} only")
    return passed(shown)


@check("cuda-matmul", applies=Image.promises_cuda)
def cuda_matmul(image: Image) -> Outcome:
    """Multiply two matrices on each GPU and on the CPU, in float32 without TF32."""
    if (nothing := without_device(image)) is not None:
        return nothing
    torch.backends.cuda.matmul.allow_tf32 = False
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(512, 512, generator=generator) for _ in range(2))
    expected = left.double() @ right.double()
    errors = []
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        product = (left.to(device) @ right.to(device)).cpu().double()
        errors.append(float((product - expected).abs().max() / expected.abs().max()))
    value = f"off by {', '.join(f'{error:.1e}' for error in errors)}"
    # Written so that an error that is not a number fails.
    if not all(error <= TOLERANCE for error in errors):
        return failed(value, f"the GPU may differ by {TOLERANCE} from the CPU")
    return passed(value)


@check("cuda-control")
def cuda_control(image: Image) -> Outcome:
    """Promise the opposite in the image's name, which the checks of CUDA must refuse."""
    if image.promises_cuda():
        name, opposite = "no CUDA", replace(image, cuda=None)
        outcomes = [torch_cuda_build(opposite), cuda_absent(opposite)]
    else:
        name, opposite = "CUDA 11.7", replace(image, cuda="11.7")
        outcomes = [f(opposite) for f in (torch_cuda_build, cuda_libraries, cuda_visible)]
    if any(outcome.verdict != "failed" for outcome in outcomes):
        return failed("not refused", f"an image that promises {name} would have passed")
    return passed(f"refused: {name}")
