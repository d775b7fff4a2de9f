"""What a launch must hold: rules of Slurm, Kubernetes and the runtimes, each with its reason."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from torchkiln.config import WORKDIR
from torchkiln.digests import is_digest
from torchkiln.launch_code import MOST_BYTES, brings, local_code, script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.launch import Launch, LaunchMount
    from torchkiln.launch_request import LaunchRequest

# A DNS label (RFC 1035), short enough for `NAME-INDEX` to be one too: the host name of a pod.
_NAME: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,51}[a-z0-9])?", re.ASCII)
# As the `distribution` project's reference grammar has it; the registry cannot be left out, because
# each runtime asks another one where none is named.
_IMAGE: Final = re.compile(
    r"(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+|[a-z0-9-]+(?=:))(?::\d+)?"
    r"(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)+",
    re.ASCII | re.IGNORECASE,
)
_EMPTY_FOLDERS: Final = ("/workspace", "/mnt", "/srv", "/media")
"""Where the image, which is read-only, has a folder for Charliecloud to mount at."""


def broken(launch: Launch, request: LaunchRequest) -> Iterator[str]:
    """Yield each rule that the launch breaks, in words for the person who asked."""
    yield from _source(launch, request)
    yield from _counts(launch, request)
    yield from _sizes(launch, request)
    yield from _command(launch.command)
    if not _NAME.fullmatch(launch.name):
        rule = "at most 53 of a-z, 0-9 and -, from a letter to no -"
        yield f"`--name {launch.name!r}`: not a name for jobs and pods: {rule}"
    for mount in launch.mounts:
        yield from (f"`--mount {mount.source!r}`: {fault}" for fault in _mount(launch, mount))
    yield from _code(launch, request)


def absent_code(launch: Launch, request: LaunchRequest) -> list[str]:
    """Return what the command names of the folder here, and no pod would find."""
    if launch.kind != "kubernetes" or any(one.target == WORKDIR for one in launch.mounts):
        return []
    found = dict.fromkeys(local_code(request.folder, launch.command))
    return [one for one in found if not brings(launch.code, one)]


def _code(launch: Launch, request: LaunchRequest) -> Iterator[str]:
    """Yield what is wrong with the code that the job brings, or lacks."""
    if request.code and launch.kind != "kubernetes":
        yield f"`--code`: {launch.kind} mounts the folder of the recipe at {WORKDIR} by itself"
    if sum(len(one.text.encode()) for one in launch.code) > MOST_BYTES:
        yield "`--code`: larger than 1 MiB together, the most that a ConfigMap holds"
    taken = [one for one in launch.mounts if PurePosixPath(one.target).is_relative_to(WORKDIR)]
    for mount in taken if launch.code else ():
        yield f"`--mount {mount.source}`: `--code` takes all of {WORKDIR}: mount it at /data"
    absent = absent_code(launch, request)
    for one in absent:
        ways = f"add `--code {one}` or `--mount CLAIM:{WORKDIR}`, or give its path in the image"
        yield f"`{one}`: not found in the pod, which does not see this folder: {ways}"
    program = script(launch.command)
    # A variant's own image has no programs in its /workspace; what `--image` has is not known.
    if launch.kind != "kubernetes" or not request.digest or taken or absent:
        return
    if program and not program.startswith("/") and not brings(launch.code, program):
        yield f"`{program}`: not found in this folder"


def _source(launch: Launch, request: LaunchRequest) -> Iterator[str]:
    slurm = launch.kind.startswith("slurm-")
    ways = ["image", "repository", *(["file"] if slurm else [])]
    given = [way for way in ("image", "repository", "file") if getattr(request, way)]
    if len(given) != 1:
        yield "give one of " + ", ".join(f"`--{way}`" for way in ways) + " to say which image"
    elif given[0] not in ways:
        yield f"`--file`: {launch.kind} starts images of a registry, `--image`"
    if request.repository and request.cuda is None:
        yield f"`--repository {request.repository}`: of which variant? add `--cpu` or `--cuda 117`"
    elif launch.image:
        yield from _image(launch)
    if not launch.file.isprintable():
        yield "`--file`: the path has a character that cannot be printed"


def _image(launch: Launch) -> Iterator[str]:
    if launch.kind == "docker" and is_digest(launch.image):
        return  # one that Docker has, by its id
    name, at, digest = launch.image.partition("@")
    if not at:
        yield f"`--image {launch.image}`: names no digest, and a tag may move: add @sha256:..."
    elif not _IMAGE.fullmatch(name) or not is_digest(digest):
        yield f"`{launch.image}`: expected REGISTRY/REPOSITORY@sha256:... in full"


def _counts(launch: Launch, request: LaunchRequest) -> Iterator[str]:
    for flag, value in (("nodes", launch.nodes), ("processes", launch.processes)):
        if value < 1:
            yield f"`--{flag} {value}`: at least 1"
    if launch.cpus < max(1, launch.processes):
        yield f"`--cpus {launch.cpus}`: fewer than the {launch.processes} processes of a node"
    if launch.gpus and request.cuda is False:
        yield f"`--gpus {launch.gpus}`: a CPU image uses none"
    if request.cuda and not launch.gpus:
        yield f"`--gpus {launch.gpus}`: an image for CUDA needs one; for none there is `--cpu`"
    if launch.gpus and launch.processes > launch.gpus:
        yield f"`--processes {launch.processes}`: more than the {launch.gpus} GPUs of a node"


def _sizes(launch: Launch, request: LaunchRequest) -> Iterator[str]:
    slurm = launch.kind.startswith("slurm-")
    if slurm and request.shm:
        yield "`--shm`: on Slurm a container has the node's own /dev/shm"
    if launch.kind == "kubernetes" and launch.shm >= launch.memory:
        # What lies in an emptyDir in memory counts against the container's limit.
        yield f"`--shm {launch.shm}M`: no memory is left of `--memory {launch.memory}M`"
    if launch.kind == "docker" and request.time:
        yield "`--time`: Docker has no time limit"
    if request.time and not launch.seconds and re.fullmatch(r"[0:-]+", request.time):
        yield f"`--time {request.time}`: no time at all"


def _command(command: tuple[str, ...]) -> Iterator[str]:
    if not command:
        yield "no command: it stands at the end, `-- python train.py`"
    elif command[0].rpartition("/")[2] == "torchrun":
        yield "the command is what torchrun runs: leave torchrun and its options out"
    elif not command[0]:
        yield "the command's first word is empty"
    try:
        "".join(command).encode()
    except UnicodeEncodeError:
        yield "the command has a word that is no UTF-8"


def _mount(launch: Launch, mount: LaunchMount) -> Iterator[str]:
    """Yield what the kind's own syntax for mounts cannot say."""
    text = mount.source + mount.target
    if not text.isprintable() or "," in text or '"' in text:
        yield "a comma, a double quote or what cannot be printed is beyond the syntax of mounts"
    if ".." in mount.target.split("/"):
        yield "the target must be a plain path"
    if launch.kind == "kubernetes":
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", mount.source, re.ASCII):
            yield "for Kubernetes, SOURCE is the name of a PersistentVolumeClaim"
    elif not mount.source.startswith("/"):
        yield "SOURCE must be a full path: the job may start in another folder"
    if launch.kind == "slurm-pyxis" and re.search(r"[\s$]", text):
        yield "pyxis hands mounts to enroot as a line of words: no spaces, no $"
    if launch.kind == "slurm-charliecloud":
        if mount.target.rstrip("/") not in _EMPTY_FOLDERS:
            yield f"Charliecloud makes no folder to mount at: take {', '.join(_EMPTY_FOLDERS)}"
        if not mount.writable:
            yield f"Charliecloud cannot mount read-only: say so, {mount.source}:{mount.target}:rw"
