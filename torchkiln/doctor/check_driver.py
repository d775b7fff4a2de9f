"""The NVIDIA driver: its kernel module, its libraries, and the CUDA that torch was built with."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from torchkiln import drivers
from torchkiln.doctor import builds
from torchkiln.doctor.checks import check, ok, problem, skipped
from torchkiln.doctor.container import as_root, start_again, start_with_gpu
from torchkiln.doctor.distribution import install_driver, install_libcuda
from torchkiln.doctor.libraries import find_library, path_folders, version_of
from torchkiln.doctor.nvidia import cuda_error
from torchkiln.drivers import parse_driver
from torchkiln.machine import module_version

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts
    from torchkiln.drivers import Driver

_UNLOAD: Final = "modprobe -r -a nvidia_drm nvidia_modeset nvidia_uvm nvidia"
"""In the order in which they use each other; those that are not loaded are passed over."""

_COMPAT_ERRORS: Final = (803, 804)
"""CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE."""


@check("driver-mismatch", area="machine", rank=10)
def driver_mismatch(facts: Facts) -> Outcome:
    """Compare the loaded kernel module with NVML, which refuses a module of another version."""
    module = module_version(facts.subject.root)
    library = _version(facts, "libnvidia-ml.so.1")
    if not module or not library:
        return skipped("there is no driver with a library of its own")
    if module == library:
        return ok(f"driver {module}: kernel module and libraries are of one version")
    reload = f"{as_root(_UNLOAD)} && {as_root('modprobe nvidia')}"
    return problem(
        f"the kernel module is {module}, libnvidia-ml is {library}",
        cause="the driver was updated and the old module is still loaded; a reboot mends it too"
        if not facts.container
        else "the container has libraries of another driver than its host runs",
        remedy=start_again(facts.container) if facts.container else reload,
        link="NVIDIA/nvidia-container-toolkit#171",
    )


@check("cuda-compat", area="machine", rank=18)
def cuda_compat(facts: Facts) -> Outcome:
    """Look whether libcuda is the driver's, or one of a cuda-compat package that does not fit."""
    module = parse_driver(module_version(facts.subject.root))
    found = find_library("libcuda.so.1", facts.subject.root, facts.subject.environ)
    if found is None or module is None:
        return skipped("there is no driver with a libcuda")
    libcuda, error = parse_driver(version_of(found)), cuda_error(facts)
    if libcuda and libcuda != module and libcuda.text == _version(facts, "libnvidia-ml.so.1"):
        return skipped("the driver's libraries are all of another version: `driver-mismatch`")
    if error not in _COMPAT_ERRORS and _goes_with(libcuda, module, facts):
        return ok(f"libcuda goes with the driver {module.text}")
    version = libcuda.text if libcuda else f"of an unknown version, and CUDA tells error {error}"
    return problem(
        f"libcuda is {version}; the kernel module is {module.text}",
        cause="a libcuda of a cuda-compat package is found first: error 803 or 804",
        remedy=_without(facts, found, module),
        link="NVIDIA/nvidia-docker#1256",
    )


def _goes_with(libcuda: Driver | None, module: Driver, facts: Facts) -> bool:
    """Tell whether `libcuda` is the driver's own, or a newer one on a GPU of a data centre."""
    if libcuda is None or libcuda.numbers == module.numbers or builds.works(facts):
        return True
    return libcuda > module and not any("GeForce" in gpu.name for gpu in facts.machine.gpus)


def _without(facts: Facts, compat: Path, module: Driver) -> str:
    """Return the command after which the libcuda of the driver is found, and not `compat`."""
    root = facts.subject.root
    folders = path_folders(root, facts.subject.environ)
    rest = [folder for folder in folders if folder != compat.parent]
    if len(rest) == len(folders):
        own = find_library(f"libcuda.so.{module.text}", root, {})
        if own is None:
            return _get_libcuda(facts, module)
        rest.insert(0, own.parent)
    if not rest:
        return "unset LD_LIBRARY_PATH"
    value = ":".join(f"/{folder.relative_to(root)}" for folder in rest)
    return f"export LD_LIBRARY_PATH={shlex.quote(value)}"


def _get_libcuda(facts: Facts, module: Driver) -> str:
    if facts.container:
        return start_with_gpu(facts.container)
    return install_libcuda(facts.subject.root, module.branch)


@check("driver-too-old", area="machine", rank=20)
def driver_too_old(facts: Facts) -> Outcome:
    """Compare the driver with the oldest that runs the CUDA which torch was built with."""
    build, driver = builds.installed_build(facts), facts.machine.driver
    if build is None or not build.cuda or driver is None:
        return skipped("there is no driver, or no torch that was built for CUDA")
    try:
        floor = drivers.floor(build.cuda, facts.machine.platform)
    except KeyError:
        return skipped(f"nothing is known of CUDA {build.cuda}")
    libcuda = parse_driver(_version(facts, "libcuda.so.1")) or driver
    if builds.works(facts) or max(driver, libcuda).reaches(floor):
        return ok(f"the driver {driver.text} runs CUDA {build.cuda}, which torch was built with")
    return problem(
        f"the driver is {driver.text}; torch {build.release} was built with CUDA {build.cuda}",
        cause=f"CUDA {build.cuda} needs the driver {floor} or newer",
        remedy=builds.command(facts) or install_driver(facts.subject.root),
        link="pytorch/pytorch#162531",
    )


def _version(facts: Facts, library: str) -> str:
    found = find_library(library, facts.subject.root, facts.subject.environ)
    return version_of(found) if found else ""
