"""What a command costs the whole machine: seconds, seconds of all cores, memory at its peak.

The whole machine, because Docker does its work in a daemon: nothing else may run beside it.
Memory is what processes hold for themselves (anonymous pages) and in memory file systems, over what
they held before; caches of files are not counted.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_BEAT: Final = 0.05  # seconds between two looks at memory
_IDLE: Final = (3, 4)  # idle and iowait, in the fields of /proc/stat (proc(5))
_HELD: Final = ("AnonPages", "Shmem")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Wall seconds, CPU seconds of all cores together, and bytes at the peak."""

    wall: float
    cpu: float
    memory: int


def measured(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> Cost:
    """Run `command` to its end and return what it cost; one that fails raises `EngineError`."""
    os.sync()  # what others left to be written must not count here
    watcher = _Memory()
    cpu, start = _busy(), time.monotonic()
    with watcher:
        done = subprocess.run(
            command, env=env, cwd=cwd, capture_output=True, text=True, check=False
        )
    wall = time.monotonic() - start
    if done.returncode:
        what = f"a command of the benchmark failed: `{' '.join(command)}`"
        raise EngineError(what, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}".strip())
    return Cost(wall=round(wall, 2), cpu=round(_busy() - cpu, 2), memory=watcher.peak)


class _Memory:
    """Looks at the machine's memory until the block ends; `peak` is over what was held before."""

    def __init__(self) -> None:
        self.peak = 0
        self._before = _held()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._done.wait(_BEAT):
            self.peak = max(self.peak, _held() - self._before)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _busy() -> float:
    """Return the seconds that all cores have been busy since the machine started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    ticks = [int(field) for field in fields]
    return (sum(ticks) - sum(ticks[field] for field in _IDLE)) / _TICKS


def _held() -> int:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    values = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    return sum(values[name] for name in _HELD)
