"""The 12 points of the contract, for people: what breaks where without each, and how to mend it.

`fix` is a line of a Dockerfile or a command. The issues are of the projects that it breaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of the contract; `why` is the cause, with issues where people met it."""

    id: str
    title: str
    why: str
    fix: str


POINTS: Final = (
    Point(
        id="C01-user",
        title="a numeric user of group 0, who may read everything",
        why="Kubernetes' runAsNonRoot refuses a user's name (prometheus/statsd_exporter#406);"
        " OpenShift runs any uid with gid 0; Apptainer and enroot run as the caller, who cannot"
        " read what is 0600 (wwood/singlem#155) or remove what is u-w (singularity#4524)",
        fix="RUN chmod -R a+rX,u+w /opt/app\nUSER 1000:0",
    ),
    Point(
        id="C02-places",
        title="nothing needed in /root, /home, /tmp, /run, /var/tmp, /dev, /mnt",
        why="Apptainer binds the caller's home and /tmp over the image's (apptainer#391),"
        " Charliecloud and enroot /dev, /run and /mnt: what the image has there is gone",
        fix="ENV HOME=/tmp\nCOPY app /opt/app",
    ),
    Point(
        id="C03-read-only",
        title="works read-only: bytecode is unchecked-hash and never written",
        why="enroot, Apptainer and readOnlyRootFilesystem mount the image read-only: Errno 30"
        " (NVIDIA/enroot#81, NVIDIA/pyxis#52); bytecode with a clock is compiled at each start",
        fix="RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/venv\n"
        "ENV PYTHONDONTWRITEBYTECODE=1",
    ),
    Point(
        id="C04-any-uid",
        title="any uid has a name, a home and places for caches",
        why="a uid without passwd entry: `KeyError: getpwuid(): uid not found` in torch's compiler"
        " (pytorch#140765, vllm#46734); caches in a home that cannot be written",
        fix="ENV USER=app LOGNAME=app HOME=/tmp XDG_CACHE_HOME=/tmp/.cache"
        " MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor"
        " TRITON_CACHE_DIR=/tmp/triton",
    ),
    Point(
        id="C05-no-shadows",
        title="no package or library of the host hides the image's own",
        why="~/.local of the home that Apptainer binds comes before the image's packages"
        " (princeton-ddss/blackfish#366, singularity#5592); a library path hides the wheels' CUDA",
        fix="ENV PYTHONNOUSERSITE=1 LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
    ),
    Point(
        id="C06-nvidia-variables",
        title="a CUDA image asks for GPUs and its driver, a CPU image for none",
        why="without NVIDIA_VISIBLE_DEVICES enroot's hook gives no GPU, without `compute` no"
        " libcuda; without NVIDIA_REQUIRE_CUDA an old driver fails late"
        " (nvidia-container-toolkit#152); a CPU image that asks fails where there is no GPU",
        fix="ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        ' NVIDIA_REQUIRE_CUDA="cuda>=12.8 driver>=525.60.13"',
    ),
    Point(
        id="C07-driver-libraries",
        title="ldconfig knows where runtimes put the driver's libraries",
        why="GKE mounts them at /usr/local/nvidia (scvi-tools#3799), Apptainer at"
        " /.singularity.d/libs, where triton asks ldconfig (pytorch#107960); the toolkit's hook"
        " needs /etc/ld.so.conf.d (nvidia-container-toolkit#1326)",
        fix=r"RUN printf '%s\n' /usr/local/nvidia/lib /usr/local/nvidia/lib64"
        " /.singularity.d/libs > /etc/ld.so.conf.d/nvidia.conf && ldconfig",
    ),
    Point(
        id="C08-launchers",
        title="PYTORCH_VERSION is set, and nothing that launchers set",
        why="enroot's 50-slurm-pytorch.sh sets MASTER_ADDR and the ranks only where"
        " PYTORCH_VERSION is; a fixed OMP_NUM_THREADS or rank is wrong on every other machine"
        " (onyx#12351)",
        fix="ENV PYTORCH_VERSION=2.9.1",
    ),
    Point(
        id="C09-entry-point",
        title='the entry point, if any, is a program that ends in `exec "$@"`',
        why="pyxis, `apptainer exec` and a pod's `command` drop it, other runtimes give it the"
        " command: the image must do the same with and without it",
        fix='ENTRYPOINT ["/opt/app/entrypoint"]  # a script that ends with: exec "$@"',
    ),
    Point(
        id="C10-plain-system",
        title="sh, ldconfig, getent, certificates; nothing that needs root to unpack",
        why="enroot starts images by /bin/sh, Charliecloud and NVIDIA's toolkit call ldconfig"
        " (nvidia-container-toolkit#1471); engines without root drop setuid bits and capabilities"
        " and cannot make devices",
        fix="RUN apt-get install --yes ca-certificates && find / -xdev -perm /6000 -type f"
        " -exec chmod a-s {} +",
    ),
    Point(
        id="C11-form",
        title="OCI's media types, gzip, 60 layers, honest digests",
        why="enroot before 4.0 reads no zstd (NVIDIA/enroot#153), takes one manifest for each"
        " architecture, and overlay mounts have a limit of layers",
        fix="docker buildx build --output type=oci,dest=image.tar,compression=gzip,"
        "force-compression=true,oci-mediatypes=true .",
    ),
    Point(
        id="C12-limits",
        title="limits and shared memory are left to the host",
        why="memlock for InfiniBand and /dev/shm for DataLoaders come from the scheduler"
        " (dstackai/dstack#2712, pytorch#73790, pytorch#5040); an image that sets its own undoes"
        " that",
        fix="RUN rm -rf /etc/security/limits.d/* && sed -i '/^ *ulimit -/d' /opt/app/entrypoint",
    ),
)
