"""A Slurm of two nodes on this machine: its controller, a daemon for each node, and a munge."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
# The first node has this machine's name, which torchrun looks up. `config_overrides` lets the nodes
# have what this machine has not.
_CONFIG: Final = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=131072
NodeName={host}-2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=131072
PartitionName=main Nodes=ALL Default=YES MaxTime=1:00:00 State=UP
"""


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A cluster that answers to the programs with `env`."""

    env: Mapping[str, str]

    def __call__(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a program of Slurm's."""
        return subprocess.run(
            words, env=self.env, cwd=cwd, capture_output=True, text=True, check=False
        )

    def run(self, script: Path) -> tuple[int, str]:
        """Run a script as a batch job of an ordinary user's; return exit code and output.

        That user's environment has what must not come into a container.
        """
        done = subprocess.run(
            ["sbatch", "--parsable", "--output=job.log", script.name],
            env={**self.env, "PYTHONPATH": "/nowhere", "HOME": "/nonexistent"},
            cwd=script.parent,
            capture_output=True,
            text=True,
            check=False,
            user="nobody",
            group="nogroup",
            extra_groups=[],
        )
        assert done.returncode == 0, done.stderr
        code = self._wait(done.stdout.strip(), script.parent)
        log = script.parent / "job.log"
        return code, log.read_text() if log.exists() else "no output"

    def _wait(self, job: str, cwd: Path) -> int:
        """Return the exit code of a job when it has ended; `sbatch --wait` asks too seldom."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            shown = self("scontrol", "--oneliner", "show", "job", job, cwd=cwd).stdout
            fields = dict(word.partition("=")[::2] for word in shown.split())
            if fields.get("EndTime") and fields["JobState"] not in {"PENDING", "RUNNING"}:
                return int(fields["ExitCode"].partition(":")[0] or 0)
            time.sleep(0.3)
        self("scancel", job, cwd=cwd)
        pytest.fail(f"job {job} did not end")


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Give a cluster that lives in `folder`; skip the test where there can be none."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [name for name in _PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons need root")
    host = socket.gethostname()
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        pytest.skip(f"this machine does not know its own name: {host}")
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    config.write_text(_CONFIG.format(host=host, folder=folder, ports=_ports(3)))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    env = {**os.environ, "PATH": path, "SLURM_CONF": str(config)}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in _daemons(folder, key, host):
            started.append(subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))
            time.sleep(0.5)
        cluster = Slurm(env=env)
        if not _idle(cluster, folder):
            pytest.fail("".join(log.read_text()[-2000:] for log in folder.glob("*.log")))
        yield cluster
    finally:
        for process in reversed(started):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def _daemons(folder: Path, key: Path, host: str) -> list[list[str]]:
    """Return the commands of the daemons, each of which stays in the foreground."""
    munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    munge += [f"--socket={folder}/munge.socket"]
    nodes = [["slurmd", "-D", "-N", name] for name in (host, f"{host}-2")]
    return [munge, ["slurmctld", "-D"], *nodes]


def _idle(cluster: Slurm, folder: Path) -> bool:
    """Wait until both nodes are ready to work, and tell whether they are."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = cluster("sinfo", "--noheader", "--Node", "--format=%t", cwd=folder).stdout.split()
        if found == ["idle", "idle"]:
            return True
        time.sleep(0.3)
    return False


def _ports(number: int) -> list[int]:
    """Return ports of the loopback at which nobody listens."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
