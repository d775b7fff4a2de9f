"""What people build PyTorch images with today; `recipes/` has a Dockerfile of each one's shape.

All begin with the same Debian, take the same wheels from a folder and Debian's packages from a
cache, so that no download is measured. What could not be had here, or would not be the same work,
was left out: `left_out` says what.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

RECIPES: Final = Path(__file__).parent / "recipes"

EXTRAS: Final = ("cmake", "pyyaml", "ipython", "jupyter-core")
"""What recipes install beside the variant's wheels."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A recipe of others; `id` is the name of its Dockerfile."""

    id: str
    title: str
    left_out: str

    @property
    def dockerfile(self) -> str:
        """Return the text of its Dockerfile."""
        return (RECIPES / f"{self.id}.Dockerfile").read_text(encoding="utf-8")


PEERS: Final = (
    Peer(
        id="plain",
        title="`pip install` in one `RUN`",
        left_out="packages that apt recommends",
    ),
    Peer(
        id="uv",
        title="`uv pip install`",
        left_out="nothing",
    ),
    Peer(
        id="pytorch",
        title="pytorch/pytorch, runtime",
        left_out="Ubuntu (Debian here), torchelastic, all of requirements.txt but numpy, cmake,"
        " pyyaml and ipython",
    ),
    Peer(
        id="docker-stacks",
        title="jupyter/docker-stacks, core",
        left_out="Ubuntu (Debian here), conda and mamba (a virtual environment here: no channel can"
        " be reached), fix-permissions",
    ),
    Peer(
        id="aws",
        title="AWS Deep Learning Containers, core",
        left_out="Amazon Linux (Debian here), OpenMPI, EFA, sshd, `uv sync` (uv pip install here)",
    ),
)
