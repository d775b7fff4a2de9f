"""Launches to render, and programs that write down how a rendered script calls them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from torchkiln.launch import SUBMIT, Kind, Launch, LaunchMount, recipe

if TYPE_CHECKING:
    from torchkiln.launch_code import CodeFile

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.example:5000/team/torch@{DIGEST}"
KINDS: tuple[Kind, ...] = tuple(SUBMIT)
SCRIPTS: tuple[Kind, ...] = tuple(kind for kind in SUBMIT if kind != "kubernetes")
_PROGRAMS = ("srun", "docker", "apptainer", "ch-image", "ch-convert", "ch-fromhost")


def launch(
    kind: Kind,
    command: tuple[str, ...] = ("python", "train.py"),
    *,
    nodes: int = 1,
    gpus: int = 0,
    file: str = "",
    seconds: int = 0,
    mounts: tuple[LaunchMount, ...] = (),
    code: tuple[CodeFile, ...] = (),
) -> Launch:
    """Return a launch of eight CPUs for each GPU, or for its one process."""
    return Launch(
        kind=kind,
        name="train",
        image="" if file else IMAGE,
        file=file,
        command=command,
        nodes=nodes,
        processes=gpus or 1,
        gpus=gpus,
        cpus=8 * (gpus or 1),
        memory=64 << 10,
        shm=16 << 10,
        seconds=seconds,
        mounts=mounts,
        code=code,
    )


def rendered(one: Launch) -> str:
    return recipe(ROOT, one)


class Recorder:
    """A folder of programs that write their words to `calls`, and a place to run scripts in."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.calls = folder / "bin", folder / "calls"
        self.here = folder / "it's $HOME here"
        self.bin.mkdir()
        self.here.mkdir()
        for name in _PROGRAMS:
            self.record(name)
        self.program("scontrol", "printf 'node%d\\n' 7 8 9")

    def record(self, name: str, then: str = "") -> None:
        """Put a program on the PATH that writes down its words, and does something `then`."""
        note = f"printf '%s\\0' $# \"$@\" >>'{self.calls}'"
        self.program(name, f"{note}\n{then}")

    def program(self, name: str, body: str) -> None:
        """Put a program on the PATH of the scripts."""
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def run(self, script: str, **environment: str) -> list[list[str]]:
        """Run a script as Slurm does, and return the words of each call that it made."""
        self.calls.unlink(missing_ok=True)
        subprocess.run(
            ["bash", "-c", script],
            cwd=self.here,
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "SLURM_JOB_ID": "4711",
                "SLURM_JOB_NODELIST": "node[7-9]",
                **environment,
            },
            check=True,
        )
        return self._read()

    def _read(self) -> list[list[str]]:
        """Read calls: for each a number, and as many words."""
        words = iter(self.calls.read_bytes().decode().split("\0")[:-1])
        return [[next(words) for _ in range(int(number))] for number in words]
