"""The words of a recipe: torchrun's options, and texts as shells, YAML and runtimes read them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

import yaml as pyyaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.launch import Launch

PYTHONS: Final = frozenset({"python", "python3"})
_DOCKER_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
# Seconds. The defaults, 600 and 60, are too short where one node unpacks the image for the first
# time while another has it: pyxis took 7 minutes for an image of PyTorch (NVIDIA/pyxis#24).
_PATIENCE: Final = "join_timeout=1800,read_timeout=1800"


def quote(text: str) -> str:
    """Return `text` as one word of a shell; shellcheck takes a bare comma for a mistake."""
    return f"'{text}'" if "," in text and "'" not in text else shlex.quote(text)


def torchrun(launch: Launch, *, host: str, job: str) -> list[str]:
    """Return all words that start the processes of a node; `host` is `HOST:PORT`."""
    return [*_meeting(launch, host, job, _PATIENCE), *_program(launch.command)]


def torchrun_in_shell(launch: Launch, *, host: str, job: str) -> list[str]:
    """Return the same as words of a shell, of which `host` and `job` are some already."""
    options = _meeting(launch, host, job, quote(_PATIENCE))  # which need no quotes but for these
    return [*options, *map(quote, _program(launch.command))]


def _meeting(launch: Launch, host: str, job: str, patience: str) -> list[str]:
    """Return torchrun and its options: how many processes, and where the nodes meet."""
    processes = f"--nproc-per-node={launch.processes}"
    if launch.nodes == 1:
        # Its processes would look up the host's name, which not every container can.
        return ["torchrun", "--standalone", "--local-addr=127.0.0.1", processes]
    return [
        "torchrun",
        f"--nnodes={launch.nodes}",
        processes,
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={host}",
        f"--rdzv-id={job}",
        f"--rdzv-conf={patience}",
    ]


def _program(command: tuple[str, ...]) -> list[str]:
    """Return what torchrun starts: it runs a script or a module with its own Python.

    Anything else, a Python with options of its own too, runs as it is.
    """
    first, rest = command[0], command[1:]
    if first in PYTHONS and rest and (rest[0] == "-m" or not rest[0].startswith("-")):
        return list(rest)
    return ["--no-python", *command]


def slurm_time(seconds: int) -> str:
    """Return a time limit as `DAYS-HH:MM:SS` (sbatch(1), --time)."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}"


def pyxis_image(image: str) -> str:
    """Return the reference as enroot has it: `REGISTRY#REPOSITORY@DIGEST`.

    enroot asks Docker Hub under a name of its own, so that one is left out.
    """
    registry, _, rest = image.partition("/")
    return rest if registry in _DOCKER_HUB else f"{registry}#{rest}"


def path(file: str) -> str:
    """Return a path that neither pyxis nor ch-run takes for an image's name (NVIDIA/pyxis#67)."""
    return file if file.startswith(("/", "./")) else f"./{file}"


def short_digest(image: str) -> str:
    """Return the first 12 digits of the digest, to name a file by."""
    return image.rpartition(":")[2][:12]


def charliecloud_form(file: str) -> str:
    """Return what ch-convert calls the format of a file, by its name (ch-convert(1))."""
    if file.endswith((".sqsh", ".sqfs", ".squashfs", ".squash")):
        return "squash"
    return "tar" if file.endswith((".tar", ".tar.gz", ".tgz")) else "dir"


def kubernetes_literal(text: str) -> str:
    """Return an argument from which Kubernetes makes `text`.

    It replaces `$(NAME)` by a variable, and `$$` by `$` (Container v1 core, `args`).
    """
    return text.replace("$", "$$")


def yaml(text: str) -> str:
    """Return `text` as a YAML string on one line, in double quotes."""
    quoted: str = pyyaml.safe_dump(text, default_style='"', width=float("inf"))
    return quoted.rstrip("\n")


def yaml_texts(texts: Mapping[str, str]) -> str:
    """Return lines of YAML with `texts` by name: a block, where YAML can write it as it is.

    All else, what is not ASCII too, is a string on one line, on which all parsers agree.
    """
    lines: str = pyyaml.safe_dump(
        dict(texts), default_style="|", sort_keys=False, width=float("inf")
    )
    return lines.removesuffix("\n")
