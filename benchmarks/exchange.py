"""Push and pull beside skopeo, to and from one registry server on this machine.

    ./kiln build --cuda 117
    python -m benchmarks.exchange cu117

Medians of five rounds in turn, each into a repository (push) or a folder (pull) that is empty. The
blobs of earlier rounds are removed from the server, so that nothing is there already.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.sharing import insert
from torchkiln import pipeline
from torchkiln.files import write_atomic
from torchkiln.registry.pull import pull
from torchkiln.registry.push import push
from torchkiln.registry.reference import parse
from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchkiln.image import Image

HERE: Final = Path(__file__).parent
KEPT: Final = HERE / "exchange.json"
_MARKS: Final = ("<!-- python -m benchmarks.exchange writes from here -->\n", "<!-- to here -->")
_ROUNDS: Final = 5
_TLS: Final = {"push": "--dest-tls-verify=false", "pull": "--src-tls-verify=false"}


@contextmanager
def server(place: Path) -> Iterator[str]:
    """Run a registry server that keeps everything below `place`; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = place / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {place}/data}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n"
    )
    process = subprocess.Popen(["docker-registry", "serve", config], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait()


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes, after what was written before is on the disk."""
    os.sync()
    started = time.monotonic()
    work()
    return time.monotonic() - started


def measure(image: Image, store: Store) -> dict[str, dict[str, float]]:
    """Return the median seconds by direction and tool."""
    seconds: dict[str, dict[str, list[float]]] = {"push": {}, "pull": {}}
    for number in range(_ROUNDS):
        tools = ["torchkiln", "skopeo"] if number % 2 else ["skopeo", "torchkiln"]
        for tool in tools:
            with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as address:
                reference = parse(f"{address}/{tool}:x")
                times = _one(tool, image, store, str(reference), Path(folder))
            for direction, taken in times.items():
                seconds[direction].setdefault(tool, []).append(taken)
    return {
        direction: {tool: statistics.median(taken) for tool, taken in tools.items()}
        for direction, tools in seconds.items()
    }


def _one(tool: str, image: Image, store: Store, name: str, folder: Path) -> dict[str, float]:
    environ = dict(os.environ)
    if tool == "torchkiln":
        target = parse(name)
        other = Store(folder / "store")
        return {
            "push": timed(lambda: push(store, image, target, ["x"], environ)),
            "pull": timed(lambda: pull(other, target, environ)),
        }
    return {
        "push": timed(lambda: _skopeo("push", f"oci:{image.layout}", f"docker://{name}")),
        "pull": timed(lambda: _skopeo("pull", f"docker://{name}", f"oci:{folder}/layout")),
    }


def _skopeo(direction: str, source: str, target: str) -> None:
    command = ["skopeo", "copy", "--quiet", _TLS[direction], source, target]
    subprocess.run(command, check=True)


def table(found: dict[str, Any]) -> str:
    """Return what was measured, and the ratios."""
    lines = [
        "| image | direction | `./kiln` | `skopeo copy` | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, one in found.items():
        for direction, seconds in one["seconds"].items():
            ours, theirs = seconds["torchkiln"], seconds["skopeo"]
            cells = [
                f"`{name}`, {one['size'] / 1e6:,.0f} MB",
                direction,
                *(_speed(value, one["size"]) for value in (ours, theirs)),
                f"{ours / theirs:.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _speed(seconds: float, size: int) -> str:
    return f"{seconds:.1f} s, {size / seconds / 1e6:,.0f} MB/s"


def main(names: list[str]) -> None:
    """Measure, keep the seconds, and write the table."""
    project = pipeline.open_project(HERE.parent)
    found = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    for name in names:
        image = pipeline.image_built_before(project, project.catalog.variant(name))
        if image is None:
            sys.exit(f"`{name}` is not built")
        found[name] = {"size": image.size, "seconds": measure(image, project.store)}
    readme = HERE / "README.md"
    write_atomic(KEPT, json.dumps(found, indent=1) + "\n")
    write_atomic(readme, insert(readme.read_text("utf-8"), table(found), _MARKS))


if __name__ == "__main__":
    main(sys.argv[1:])
