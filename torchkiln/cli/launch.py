"""The task that writes a recipe to start an image on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from torchkiln import pipeline
from torchkiln.cli.flags import ROOT, WHICH, after_dashes, expected, selected
from torchkiln.engine.kiln import built_before
from torchkiln.errors import LaunchError
from torchkiln.files import write_atomic
from torchkiln.launch import recipe
from torchkiln.launch_request import LaunchRequest, read
from torchkiln.progress import say

if TYPE_CHECKING:
    from invoke.context import Context


@task(
    positional=["kind"],
    iterable=["mount", "code"],
    help={
        **WHICH,
        "kind": "slurm-pyxis, slurm-apptainer, slurm-charliecloud, kubernetes or docker",
        "image": "the image by digest: REGISTRY/REPOSITORY@sha256:...",
        "repository": "where the variant that --cpu or --cuda names was pushed",
        "file": "for Slurm: an exported file (.sqsh, .sif) or unpacked folder",
        "name": "the job's name",
        "nodes": "on how many nodes",
        "gpus": "GPUs of a node (default: 1 for a CUDA variant)",
        "processes": "processes of a node (default: one for each GPU, or one)",
        "cpus": "CPUs of a node (default: 4 for each process)",
        "memory": "memory of a node: 64G (default: 16G)",
        "shm": "of this, for /dev/shm (Docker and Kubernetes; default: a quarter)",
        "time": "time limit: 4:00:00",
        "mount": "a folder, SOURCE:/TARGET[:rw], more than once; for Kubernetes CLAIM:/TARGET[:rw]",
        "code": "a text file or folder below this one for /workspace on Kubernetes, more than once",
        "output": "the recipe's path (default: stdout)",
    },
)
@expected
def launch(
    c: Context,
    kind: str,
    mount: list[str],
    code: list[str],
    cpu: bool = False,
    cuda: str = "",
    image: str = "",
    repository: str = "",
    file: str = "",
    name: str = "",
    nodes: str = "",
    gpus: str = "",
    processes: str = "",
    cpus: str = "",
    memory: str = "",
    shm: str = "",
    time: str = "",
    output: str = "",
) -> None:
    """Write a recipe that starts an image on a cluster."""
    cuda_, digest = _variant(cpu, cuda, digest_wanted=bool(repository))
    request = LaunchRequest(
        kind=kind,
        command=tuple(after_dashes()),
        image=image,
        repository=repository,
        digest=digest,
        file=file,
        cuda=cuda_,
        name=name,
        nodes=nodes,
        gpus=gpus,
        processes=processes,
        cpus=cpus,
        memory=memory,
        shm=shm,
        time=time,
        mounts=tuple(mount),
        code=tuple(code),
        typed=tuple(sys.argv[sys.argv.index("launch") :]),
    )
    text = recipe(ROOT, read(request))
    if output:
        write_atomic(Path(output), text)
        say(f"wrote {output}")
    else:
        print(text, end="")


def _variant(cpu: bool, cuda: str, *, digest_wanted: bool) -> tuple[bool | None, str]:
    """Return whether the variant that the flags name is for CUDA, and its image's digest.

    None where they name none; "" where nobody asks. Nothing is built for it.
    """
    if not (cpu or cuda):
        return None, ""
    project, variant = selected(cpu, cuda)
    made = built_before(pipeline.job(project, variant)) if digest_wanted else None
    if digest_wanted and made is None:
        what = f"`{variant.id}` is not built, so its digest is not known"
        raise LaunchError(what, hint=f"./kiln build {variant.flag}")
    return variant.cuda is not None, made.digest if made else ""
