"""What an image says of itself: environment, labels, user, entry point.

The rules come from what clusters do to images (enroot, Apptainer, Kubernetes); each has its reason
beside it. Both engines take them from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchkiln.drivers import floor
from torchkiln.venv import Venv

if TYPE_CHECKING:
    from torchkiln.catalog import Base, Variant
    from torchkiln.lockfile import BaseLock, VariantLock

PREFIX: Final = "opt/venv"
HOME: Final = "opt/torchkiln"
"""Where the smoke suite, the constraints, the entry point and `image.json` lie."""

CONSTRAINTS: Final = f"{HOME}/constraints.txt"
# Numeric: Kubernetes' runAsNonRoot refuses a name. Group 0: OpenShift runs any uid with it.
USER: Final = "1000:0"
WORKDIR: Final = "/workspace"
ENTRYPOINT: Final = (f"/{HOME}/bin/entrypoint",)
COMMAND: Final = ("/bin/bash",)

DRIFTED: Final = "-drifted"
"""What the tags of an image end with whose base has drifted from its lock."""
DRIFTED_LABEL: Final = "io.torchkiln.drifted"
"""The label that names the packages which are not those of the lock."""

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The runtime configuration of one image; `created` is a date (RFC 3339)."""

    environment: dict[str, str]
    labels: dict[str, str]
    created: str
    user: str = USER
    workdir: str = WORKDIR
    entrypoint: tuple[str, ...] = ENTRYPOINT
    command: tuple[str, ...] = COMMAND


def image_config(
    base: Base, variant: Variant, lock: VariantLock, base_lock: BaseLock
) -> ImageConfig:
    """Return what the image of `variant` says of itself."""
    return ImageConfig(
        environment=environment(variant),
        labels=labels(base, variant, lock, base_lock),
        created=base_lock.date,
    )


def base_config(base_lock: BaseLock) -> ImageConfig:
    """Return what the base says of itself: no more than Debian's own images do."""
    return ImageConfig(
        environment={"PATH": _SYSTEM_PATH},
        labels={},
        created=base_lock.date,
        user="",
        workdir="",
        entrypoint=(),
        command=("bash",),
    )


def venv(base: Base) -> Venv:
    """Return the virtual environment that images of this base hold."""
    return Venv(prefix=PREFIX, python=base.python)


def environment(variant: Variant) -> dict[str, str]:
    """Return the image's environment variables."""
    variables = {
        "PATH": f"/{PREFIX}/bin:/{HOME}/bin:{_SYSTEM_PATH}",
        "VIRTUAL_ENV": f"/{PREFIX}",
        "LANG": "C.UTF-8",
        # Apptainer binds the user's home, whose ~/.local would shadow the image's packages.
        "PYTHONNOUSERSITE": "1",
        # Bytecode is in the image; what is imported from a mounted folder needs none.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CONSTRAINT": f"/{CONSTRAINTS}",
        "UV_CONSTRAINT": f"/{CONSTRAINTS}",  # uv reads none of pip's settings
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # A uid without passwd entry: getpass.getuser() asks these first (pytorch#140765).
        "USER": "kiln",
        "LOGNAME": "kiln",
        "HOME": "/tmp",  # noqa: S108 - the one place that is writable everywhere
        "XDG_CACHE_HOME": "/tmp/.cache",  # noqa: S108
        "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",  # noqa: S108
        "TRITON_CACHE_DIR": "/tmp/triton",  # noqa: S108
        # enroot's hook for multi-node PyTorch acts only where this is set.
        "PYTORCH_VERSION": variant.torch,
    }
    return variables | (_nvidia(variant.cuda) if variant.cuda else {})


def _nvidia(cuda: str) -> dict[str, str]:
    return {
        # enroot's and Docker's hooks give no GPU without the first, no libcuda without the second.
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        # A space means "or": a driver of this CUDA, or one that runs it by compatibility.
        "NVIDIA_REQUIRE_CUDA": f"cuda>={cuda} driver>={floor(cuda)}",
        # GKE mounts the driver here and runs no ldconfig.
        "LD_LIBRARY_PATH": "/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
    }


def labels(base: Base, variant: Variant, lock: VariantLock, base_lock: BaseLock) -> dict[str, str]:
    """Return the image's labels: OCI's predefined keys (image-spec annotations.md), and drift."""
    kind = f"CUDA {variant.cuda}" if variant.cuda else "CPU"
    drifted = {DRIFTED_LABEL: base_lock.drift} if base_lock.drifted else {}
    return drifted | {
        "org.opencontainers.image.title": f"torchkiln {variant.id}",
        "org.opencontainers.image.description": (
            f"PyTorch {variant.torch} for {kind}, Python {base.python}, Debian {base.release}"
        ),
        "org.opencontainers.image.version": lock.wheel("torch").version,
        "org.opencontainers.image.created": base_lock.date,
    }
