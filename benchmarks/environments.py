"""An environment beside `uv pip sync` and `pip install` of the same lock, from the same wheels.

    ./kiln fetch --cuda 117
    python -m benchmarks.environments cpu cu117

Medians of three rounds in turn, each into a new folder on one file system, from a folder of the
locked wheels and without a network. Each checks the hashes. `./kiln env` runs with `--no-smoke`,
because the others try nothing; what the suite takes is beside it. uv starts with an empty cache:
its cache is a second copy of what it installs, and the others have none.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uv

from benchmarks.exchange import timed
from benchmarks.sharing import insert
from torchkiln import pipeline
from torchkiln.environment.installer import find_python, wheelhouse
from torchkiln.environment.record import Pin
from torchkiln.fetch import fetch
from torchkiln.files import write_atomic
from torchkiln.lockfile import read_environment_lock

if TYPE_CHECKING:
    from collections.abc import Callable

HERE: Final = Path(__file__).parent
KEPT: Final = HERE / "environments.json"
_MARKS: Final = (
    "<!-- python -m benchmarks.environments writes from here -->\n",
    "<!-- environments to here -->",
)
_ROUNDS: Final = 3


def measure(name: str) -> dict[str, float]:
    """Return the median seconds by tool; `smoke` is what the suite adds to `kiln`."""
    project = pipeline.open_project(HERE.parent)
    lock = read_environment_lock(project.root, project.catalog, project.catalog.variant(name))
    fetch(project.store, lock.wheels, (), project.catalog.indexes, project.environ)
    python = find_python(lock.python, project.environ)
    seconds: dict[str, list[float]] = {}
    with (
        wheelhouse(project.store, lock.wheels) as wheels,
        tempfile.TemporaryDirectory(dir=project.store.root) as place,
    ):
        pins = [
            Pin(name=one.name, version=one.version, hashes=(one.sha256,)) for one in lock.wheels
        ]
        requirements = Path(place) / "requirements.txt"
        requirements.write_text("".join(f"{pin.line}\n" for pin in pins))
        for number in range(_ROUNDS):
            arms = _arms(name, python, wheels, requirements, Path(place) / str(number))
            for tool in sorted(arms, reverse=bool(number % 2)):
                seconds.setdefault(tool, []).append(timed(arms[tool]))
            seconds.setdefault("kiln again", []).append(timed(arms["kiln"]))
            subprocess.run(["rm", "-r", str(Path(place) / str(number))], check=True)
    return {tool: statistics.median(taken) for tool, taken in seconds.items()}


def _arms(
    name: str, python: Path, wheels: Path, requirements: Path, place: Path
) -> dict[str, Callable[[], None]]:
    """Return what makes an environment with each tool, from nothing, below `place`."""
    flag = ["--cpu"] if name == "cpu" else ["--cuda", name]
    options = ["--require-hashes", "--no-index", "--find-links", str(wheels)]
    found = uv.find_uv_bin()

    def with_kiln() -> None:
        kiln = str(HERE.parent / "kiln")
        _run(kiln, "env", *flag, "--no-smoke", "--path", str(place / "kiln"))

    def with_uv() -> None:
        environment = place / "uv"
        _run(found, "venv", "--quiet", "--python", str(python), str(environment))
        words = ["--python", str(environment / "bin/python"), "--cache-dir", str(place / "cache")]
        _run(found, "pip", "sync", "--quiet", *words, *options, str(requirements))

    def with_pip() -> None:
        environment = place / "pip"
        _run(str(python), "-m", "venv", str(environment))
        words = ["--quiet", "--no-cache-dir", "--no-deps", *options, "-r", str(requirements)]
        _run(str(environment / "bin/python"), "-m", "pip", "install", *words)

    return {"kiln": with_kiln, "uv": with_uv, "pip": with_pip}


def _run(*command: str) -> None:
    clean = {
        name: text for name, text in os.environ.items() if not name.startswith(("PIP_", "UV_"))
    }
    subprocess.run(command, env=clean, stdout=subprocess.DEVNULL, check=True)


def table(found: dict[str, Any]) -> str:
    """Return what was measured, with the ratios to `./kiln env`."""
    lines = [
        "| variant | `./kiln env` | a second time | `uv pip sync` | `pip install` |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, seconds in found.items():
        ours = seconds["kiln"]
        others = (f"{seconds[one]:.1f} s, {seconds[one] / ours:.1f} times" for one in ("uv", "pip"))
        cells = [f"`{name}`", f"{ours:.1f} s", f"{seconds['kiln again']:.1f} s", *others]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> None:
    """Measure, keep the seconds, and write the table."""
    found = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    found |= {name: measure(name) for name in names}
    readme = HERE / "README.md"
    write_atomic(KEPT, json.dumps(found, indent=1) + "\n")
    write_atomic(readme, insert(readme.read_text("utf-8"), table(found), _MARKS))


if __name__ == "__main__":
    main(sys.argv[1:])
