"""What the doctor says of memory, threads, files and room: real file systems where that matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doctor_machines import LIMITS, Patient, a_system
from sandboxes import PYTHONPATH, needs_sandbox

from torchkiln.sandbox import bubblewrap

# Root of a user namespace, who may mount.
AS_ROOT = ["--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL", "--bind", "/", "/"]
# Of the shell's own: makes a folder in the tree, and names it as a program in it would.
MKTEMP = 'folder=${3:-/tmp}/made; /bin/mkdir -p "$ROOT$folder"; echo "$folder"'


@pytest.fixture
def system(tmp_path: Path) -> Patient:
    return a_system(tmp_path)


def mounted(root: Path, options: str, code: str) -> None:
    """Run `code` on the machine `system` with a real tmpfs of `options` on its /full."""
    script = f"""\
import subprocess
from pathlib import Path
from doctor_machines import Patient, a_system
from test_doctor_limits import MKTEMP
system = a_system(Path({str(root)!r}))
(system.root / "full").mkdir()
mount = ["mount", "-t", "tmpfs", "-o", {options!r}, "tmpfs", system.root / "full"]
subprocess.run(mount, check=True)
{code}
"""
    paths = {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{PYTHONPATH}"}
    command = [str(bubblewrap()), *AS_ROOT, sys.executable, "-c", script]
    done = subprocess.run(
        command, env=os.environ | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_sandbox
@pytest.mark.parametrize(
    ("sign", "client"), [(".dockerenv", "docker"), ("run/.containerenv", "podman")]
)
def test_64_mb_of_shared_memory_in_a_container_are_a_problem(
    tmp_path: Path, sign: str, client: str
) -> None:
    """Failure 14: what Docker gives unless it is asked."""
    code = f"""\
system.put({sign!r})
(system.root / "dev").mkdir()
(system.root / "dev/shm").symlink_to("../full")
anew = '/bin/umount "$ROOT/full" && /bin/mount -t tmpfs -o size=8g tmpfs "$ROOT/full"'
system.program({client!r}, '[ "$2" = --shm-size=8g ] && ' + anew)
assert system.first().outcome.verdict == "problem"
assert "64 MiB" in system.first().outcome.evidence
assert system.recovers("shared-memory")
"""
    mounted(tmp_path, "size=64m", code)


@needs_sandbox
def test_shared_memory_that_is_full_is_as_bad_as_none(tmp_path: Path) -> None:
    code = """\
system.put(".dockerenv")
(system.root / "dev").mkdir()
(system.root / "dev/shm").symlink_to("../full")
assert {} == system.complaints()
(system.root / "full/left-behind").write_bytes(bytes(100_000_000))
assert "shared-memory" == system.first().check.id
"""
    mounted(tmp_path, "size=1000m", code)


@needs_sandbox
def test_a_small_machine_has_half_its_memory_as_shared_memory(tmp_path: Path) -> None:
    code = """\
system.put("proc/meminfo", "MemTotal: 1900000 kB\\nMemAvailable: 1500000 kB\\n")
(system.root / "dev").mkdir()
(system.root / "dev/shm").symlink_to("../full")
assert {} == system.complaints()
"""
    mounted(tmp_path, "size=950000k", code)


@needs_sandbox
@pytest.mark.parametrize("options", ["size=1m", "size=8g,nr_inodes=20"])
def test_a_full_tmpdir_is_moved_to_where_there_is_room(tmp_path: Path, options: str) -> None:
    """Failure 19: no bytes, or no inodes."""
    code = """\
system.environ["TMPDIR"] = "/full"
(system.root / "var/tmp").mkdir(parents=True)
system.program("mktemp", MKTEMP)
assert system.recovers("temporary-space"), system.first()
assert system.environ["TMPDIR"] == "/var/tmp/made"
"""
    mounted(tmp_path, options, code)


@needs_sandbox
@pytest.mark.parametrize(
    "variable", ["APPTAINER_CACHEDIR", "ENROOT_CACHE_PATH", "XDG_CACHE_HOME", "HF_HOME"]
)
def test_a_full_cache_is_moved_to_the_scratch_of_the_cluster(tmp_path: Path, variable: str) -> None:
    code = f"""\
system.environ |= {{{variable!r}: "/full/cache", "SCRATCH": "/lustre/someone"}}
(system.root / "lustre/someone").mkdir(parents=True)
system.program("mktemp", MKTEMP)
assert system.recovers("cache-space"), system.first()
assert system.environ[{variable!r}] == "/lustre/someone/made"
"""
    mounted(tmp_path, "size=10m", code)


@needs_sandbox
def test_a_home_that_is_full_is_told_of_its_cache(tmp_path: Path) -> None:
    code = """\
system.environ["HOME"] = "/full"
system.program("mktemp", MKTEMP)
assert system.recovers("cache-space"), system.first()
"""
    mounted(tmp_path, "size=10m", code)


@needs_sandbox
def test_a_tmpdir_without_programs_is_moved(tmp_path: Path) -> None:
    """Hardened servers mount /tmp noexec: pytorch/pytorch issue 123054."""
    code = """\
system.environ["TMPDIR"] = "/full"
(system.root / "var/tmp").mkdir(parents=True)
system.program("mktemp", MKTEMP)
assert system.recovers("temporary-exec"), system.first()
"""
    mounted(tmp_path, "size=8g,noexec", code)


@needs_sandbox
def test_little_room_is_a_warning(tmp_path: Path) -> None:
    code = """\
system.environ["TMPDIR"] = "/full"
assert "warning" == system.first().outcome.verdict
"""
    mounted(tmp_path, "size=500m", code)


def test_nothing_is_left_where_room_was_tried(system: Patient) -> None:
    before = sorted(system.root.rglob("*"))
    system.examine()

    assert before == sorted(system.root.rglob("*"))


CGROUPS = [
    pytest.param({"sys/fs/cgroup/cpu.max": "200000 100000\n"}, id="v2 in a container"),
    pytest.param(
        {
            "proc/self/cgroup": "0::/user.slice/job\n",
            "sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
        },
        id="v2 above",
    ),
    pytest.param(
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/0a1b\n3:memory:/docker/0a1b\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        id="v1 in a container",
    ),
    pytest.param(
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/slurm/job\n",
            "sys/fs/cgroup/cpu/slurm/job/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/slurm/job/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        },
        id="v1 on a host",
    ),
]


@pytest.mark.parametrize("files", CGROUPS)
def test_more_threads_than_the_quota_are_too_many(system: Patient, files: dict[str, str]) -> None:
    """Failure 17: eight CPUs are seen, and the time of two is given."""
    for name, text in files.items():
        system.put(name, text)

    assert "torch starts 8 threads, and gets the time of 2 CPUs" == system.first().outcome.evidence
    assert system.recovers("cpu-quota")
    assert "2" == system.environ["OMP_NUM_THREADS"]


def test_more_threads_asked_for_than_cpus_allowed_are_too_many(system: Patient) -> None:
    system.environ["OMP_NUM_THREADS"] = "64"

    assert system.recovers("cpu-quota")


@pytest.mark.parametrize("text", ["max 100000\n", "800000 100000\n", "750000 100000\n"])
def test_a_quota_for_every_cpu_is_well(system: Patient, text: str) -> None:
    system.put("sys/fs/cgroup/cpu.max", text)

    assert {} == system.complaints()


def test_few_processes_allowed_are_few_threads(system: Patient) -> None:
    """`ulimit -u` of login nodes, and pids.max of containers."""
    system.put("proc/self/limits", LIMITS.format(processes=80, files=1024))

    assert system.recovers("process-limit")
    assert "4" == system.environ["OMP_NUM_THREADS"]


def test_processes_that_run_already_count(system: Patient) -> None:
    system.put("sys/fs/cgroup/pids.max", "1000\n")
    system.put("sys/fs/cgroup/pids.current", "930\n")

    assert system.recovers("process-limit")


def test_a_limit_of_open_files_is_raised_to_the_hard_one(system: Patient) -> None:
    system.put("proc/self/limits", LIMITS.format(processes=63000, files=256))

    assert "ulimit -S -n 1048576" == system.find("open-files").outcome.remedy


@pytest.mark.parametrize(
    ("environ", "sign", "client", "asked"),
    [
        ({}, ".dockerenv", "docker", "run --memory=8g IMAGE"),
        ({"SLURM_JOB_ID": "7"}, "", "srun", "--mem=8G --pty bash"),
    ],
)
def test_too_little_memory_is_asked_for_anew(
    system: Patient, environ: dict[str, str], sign: str, client: str, asked: str
) -> None:
    system.put(sign or "x")
    system.put("sys/fs/cgroup/memory.max", "268435456\n")
    system.environ |= environ
    system.program(client, f'[ "$*" = "{asked}" ] && echo max >"$ROOT/sys/fs/cgroup/memory.max"')

    assert system.recovers("memory")


def test_a_machine_without_memory_is_given_swap(system: Patient) -> None:
    free = "MemTotal: 1000000 kB\nMemAvailable: 400000 kB\n"
    system.put("proc/meminfo", free)
    for step in ("fallocate", "chmod", "mkswap"):
        system.program(step, f'echo {step} >>"$ROOT/steps"')
    swap = f'[ "$(/usr/bin/wc -l <"$ROOT/steps")" = 3 ] && printf "{free}SwapFree: 4194300 kB\\n"'
    system.program("swapon", f'{swap} >"$ROOT/proc/meminfo"'.replace("\n", "\\n"))

    assert system.recovers("memory")


def test_a_limit_of_addresses_is_lifted(system: Patient) -> None:
    text = "Max address space  {}  unlimited  bytes\n"
    system.put(
        "proc/self/limits", LIMITS.format(processes=63000, files=1024) + text.format(1 << 30)
    )

    assert "ulimit -S -v unlimited" == system.first().outcome.remedy
    assert "address-space" == system.first().check.id
