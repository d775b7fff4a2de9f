"""What the doctor says of the system, the account and the engines; that healthy ones are well."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doctor_machines import Patient, a_system, with_gpus
from sandboxes import PYTHONPATH, needs_sandbox

from torchkiln.doctor.torch_probe import TorchProbe
from torchkiln.sandbox import bubblewrap

# Runs the checks of the machine it is in, but none that asks servers, and keeps the first remedy.
DOCTOR = """\
import json, os
from pathlib import Path
from doctor_machines import CHECKS
from torchkiln.doctor.facts import Subject, gather
from torchkiln.doctor.guard import run_checks
from torchkiln.doctor.report import diagnosis
facts = gather(Subject(environ=os.environ, python=None))
found = diagnosis(run_checks(CHECKS, facts, lambda _: None))
Path(os.environ["REMEDY"]).write_text(found[0].outcome.remedy)
print(json.dumps({one.check.id: one.outcome.verdict for one in found}))
"""


@pytest.fixture
def system(tmp_path: Path) -> Patient:
    return a_system(tmp_path)


def before_and_after(
    folder: Path, environ: dict[str, str], first: str = ":"
) -> list[dict[str, Any]]:
    """Return the verdicts of the real machine for a real account 12345, and after the remedy.

    `first` is what its shell does before.
    """
    (folder / "doctor.py").write_text(DOCTOR)
    run = f"{sys.executable} {folder}/doctor.py"
    options = ["--unshare-user", "--uid", "12345", "--bind", "/", "/", "--dev-bind", "/dev", "/dev"]
    done = subprocess.run(
        [bubblewrap(), *options, "sh", "-c", f'{first}; {run}; . "$REMEDY"; {run}'],
        env=environ
        | {
            "PATH": "/usr/bin:/bin",
            "REMEDY": f"{folder}/remedy",
            "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{PYTHONPATH}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_sandbox
def test_an_account_without_a_name_is_given_one(tmp_path: Path) -> None:
    """Failure 16: `docker run --user 12345`."""
    before, after = before_and_after(tmp_path, {"HOME": str(tmp_path)})

    assert ("account", "problem") == next(iter(before.items()))
    assert "ok" == after["account"]


@needs_sandbox
@pytest.mark.parametrize("home", [{}, {"HOME": "/nonexistent"}, {"HOME": "/proc"}])
def test_an_account_without_a_home_is_given_one(tmp_path: Path, home: dict[str, str]) -> None:
    before, after = before_and_after(tmp_path, {"USER": "someone", **home})

    assert ("home", "problem") == next(iter(before.items()))
    assert "ok" == after["home"]


def test_an_account_has_the_home_of_its_entry(system: Patient) -> None:
    """Services and cron set no HOME."""
    system.environ["HOME"] = ""

    assert {} == system.complaints()


@needs_sandbox
@pytest.mark.parametrize(
    ("first", "name", "verdict"),
    [
        ("ulimit -S -v 1500000", "address-space", "problem"),
        ("ulimit -S -n 200", "open-files", "warning"),
        ("export OMP_NUM_THREADS=4000", "cpu-quota", "warning"),
    ],
)
def test_limits_of_the_shell_are_lifted(
    tmp_path: Path, first: str, name: str, verdict: str
) -> None:
    environ = {"USER": "someone", "HOME": str(tmp_path)}
    before, after = before_and_after(tmp_path, environ, first)

    assert (name, verdict) == next(iter(before.items()))
    assert "ok" == after[name]


@pytest.mark.parametrize(
    ("release", "tag"), [("2.7.1", "manylinux_2_28_x86_64"), ("2.6.0", "linux")]
)
def test_a_wheel_for_a_newer_glibc_is_replaced_by_the_last_for_this_one(
    system: Patient, release: str, tag: str
) -> None:
    """Failure 21: CentOS 7 has 2.17."""
    system.with_torch(f"{release}+cpu", None, tag=tag)
    assert system.environment
    system.environment = replace(system.environment, libc="glibc2.17")
    # What pip leaves: another release in another folder.
    system.program(
        "python",
        f'[ "${{5##*/whl/}} $6" = "cpu torch==2.5.1+cpu" ] || exit 1\n'
        f'echo "Tag: cp311-cp311-manylinux_2_17_x86_64" >"$ROOT/site-packages/'
        f'torch-{release}+cpu.dist-info/WHEEL"',
    )

    assert system.recovers("glibc")


def test_the_last_torch_for_an_old_glibc_is_that_of_driver_and_gpu(tmp_path: Path) -> None:
    patient = with_gpus(a_system(tmp_path), "Tesla V100-SXM2-16GB", driver="470.82.01")
    patient.with_torch("2.7.1+cu118", "11.8")
    assert patient.environment
    patient.environment = replace(patient.environment, libc="glibc2.17")

    assert patient.first().outcome.remedy.endswith("/whl/cu118 torch==2.5.1+cu118")


@pytest.mark.parametrize("tag", ["manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64"])
def test_an_old_wheel_is_well_on_an_old_glibc(system: Patient, tag: str) -> None:
    system.with_torch("2.0.1", None, tag=tag)
    assert system.environment
    system.environment = replace(system.environment, libc="glibc2.17")

    assert {} == system.complaints()


def test_musl_has_no_wheels(system: Patient) -> None:
    system.with_torch("2.7.1", None)
    system.put("lib/ld-musl-x86_64.so.1")

    assert "the C library is musl" == system.first().outcome.evidence


def test_an_old_python_does_not_know_its_c_library(system: Patient) -> None:
    system.with_torch("2.7.1", None)
    assert system.environment
    system.environment = replace(system.environment, libc="glibc2.3.4", version=(3, 6, 8))

    assert {} == system.complaints()


def test_a_virtual_machine_without_avx2_is_told_to_torch(system: Patient) -> None:
    system.put("proc/cpuinfo", "flags\t\t: fpu sse sse2 hypervisor\n")

    assert "warning" == system.first().outcome.verdict
    assert system.recovers("processor")


def test_a_torch_that_dies_of_an_instruction_is_a_problem(system: Patient) -> None:
    system.with_torch("2.7.1", None)
    system.torch = TorchProbe(failure="ended by SIGILL")

    assert "processor" == system.first().check.id
    assert "problem" == system.first().outcome.verdict


def test_an_arm_processor_is_well(system: Patient) -> None:
    system.put("proc/cpuinfo", "Features\t: fp asimd evtstrm aes\n")

    assert {} == system.complaints()


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    """A machine with a daemon that listens where Docker's does."""
    # Short: the kernel allows 108 letters.
    patient = a_system(tmp_path_factory.mktemp("d"))
    (patient.root / "var/run").mkdir(parents=True)
    return patient


def test_a_docker_daemon_that_answers_is_well(engine: Patient) -> None:
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(engine.root / "var/run/docker.sock"))
        daemon.listen()

        assert "ok" == engine.find("docker").outcome.verdict


def test_a_docker_daemon_that_does_not_run_is_no_complaint(engine: Patient) -> None:
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(engine.root / "var/run/docker.sock"))

    assert "skipped" == engine.find("docker").outcome.verdict


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open any socket")
def test_a_docker_daemon_that_refuses_the_account(engine: Patient) -> None:
    path = engine.root / "var/run/docker.sock"
    engine.program("usermod", f'[ "$1 $2" = "-aG docker" ] && /bin/chmod 600 {path}')
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(path))
        daemon.listen()
        path.chmod(0)

        assert engine.recovers("docker")


SPEC = """\
{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "containerEdits": {"mounts": [
  {"hostPath": "/usr/lib/x86_64-linux-gnu/libcuda.so.%s", "containerPath": "/x"}]}}
"""
YAML = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  mounts:
  - containerPath: /x
    hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.%s
"""


@pytest.mark.parametrize(("name", "spec"), [("nvidia.yaml", YAML), ("nvidia.json", SPEC)])
def test_a_specification_of_an_older_driver_is_made_anew(
    system: Patient, name: str, spec: str
) -> None:
    node = with_gpus(system, "Tesla T4")
    node.put(f"etc/cdi/{name}", spec % "535.104.05")
    assert {} == node.complaints()

    file = node.put(f"etc/cdi/{name}", spec % "470.82.01")
    node.program("nvidia-ctk", f'[ "$3" = --output=/etc/cdi/{name} ] && : >{file}')
    assert node.recovers("cdi")


@pytest.mark.parametrize(
    "setting",
    ["kernel/unprivileged_userns_clone", "user/max_user_namespaces"],
)
def test_user_namespaces_that_are_forbidden_are_told_and_no_complaint(
    system: Patient, setting: str
) -> None:
    """Ubuntu 24.04 and many clusters forbid them, and torch needs none."""
    system.put(f"proc/sys/{setting}", "0\n")

    assert "sudo sysctl -w" in system.find("user-namespaces").outcome.evidence
    assert {} == system.complaints()


def test_a_laptop_without_a_gpu_is_well(system: Patient) -> None:
    system.with_torch("2.13.0+cpu", None)

    assert {} == system.complaints()


def test_a_node_of_a_cluster_is_well(tmp_path: Path) -> None:
    """A job with one of the GPUs, and the CPUs and memory that it asked for."""
    node = with_gpus(a_system(tmp_path), *["NVIDIA H100 80GB HBM3"] * 4, driver="570.86.15")
    node.with_torch("2.8.0+cu128", "12.8")
    node.environ |= {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "8"}
    node.put("dev/nvidia-nvswitch0")
    node.put("proc/70/comm", "nv-fabricmanage\n")
    for number in (1, 2, 3):
        (tmp_path / f"dev/nvidia{number}").unlink()
        (tmp_path / f"dev/nvidia{number}").mkdir()  # refused, as a cgroup refuses it
    (tmp_path / "tmp").chmod(0o1777)

    assert {} == node.complaints()


def test_a_login_node_with_a_torch_for_cuda_and_no_gpu_is_well(system: Patient) -> None:
    system.with_torch("2.8.0+cu128", "12.8")
    system.library("libcuda.so", "570.86.15")

    assert {} == system.complaints()


def test_a_docker_container_with_gpus_is_well(tmp_path: Path) -> None:
    node = with_gpus(a_system(tmp_path), "NVIDIA A100-SXM4-40GB", driver="550.54.15")
    node.with_torch("2.7.1+cu126", "12.6")
    node.put(".dockerenv")
    node.environ |= {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "all"}
    node.put("sys/fs/cgroup/cpu.max", "max 100000\n")
    node.put("sys/fs/cgroup/memory.max", "max\n")

    assert {} == node.complaints()


def test_an_apptainer_container_with_gpus_is_well(tmp_path: Path) -> None:
    """--nv copies the libraries' names, and no versions."""
    node = with_gpus(a_system(tmp_path), "NVIDIA A100-SXM4-40GB", driver="550.54.15")
    node.with_torch("2.7.1+cu126", "12.6")
    for path in (tmp_path / "usr/lib/x86_64-linux-gnu").iterdir():
        path.unlink()
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        node.put(f".singularity.d/libs/{name}", "\x7fELF\x02")
    node.environ |= {"APPTAINER_CONTAINER": "/x.sif", "LD_LIBRARY_PATH": "/.singularity.d/libs"}

    assert {} == node.complaints()


POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "NVIDIA_VISIBLE_DEVICES": "GPU-1", "HOME": "/root"}


@pytest.mark.parametrize(
    ("kind", "file", "environ"),
    [
        ("kubernetes", "proc/self/cpuset", POD),
        ("podman", "run/.containerenv", {"container": "oci"}),
        ("enroot", ".lock", {"SLURM_JOB_ID": "7"}),
        ("incus", "dev/incus/sock", {"container": "lxc"}),
        ("lxc", "proc/1/comm", {"container": "lxc"}),
    ],
)
def test_a_container_of_another_kind_with_gpus_is_well(
    tmp_path: Path, kind: str, file: str, environ: dict[str, str]
) -> None:
    node = with_gpus(a_system(tmp_path), "NVIDIA A100-SXM4-40GB", driver="550.54.15")
    node.with_torch("2.7.1+cu126", "12.6")
    node.put(file)
    node.environ |= environ
    node.put("sys/fs/cgroup/cpu.max", "800000 100000\n")

    assert kind == node.facts().container
    assert {} == node.complaints()


@pytest.mark.parametrize(
    ("said", "kind"),
    [("systemd-nspawn", "systemd-nspawn"), ("lxc", "lxc"), ("wsl", ""), ("", "")],
)
def test_a_container_is_what_systemd_says_it_is(system: Patient, said: str, kind: str) -> None:
    system.put("run/systemd/container", f"{said}\n")

    assert kind == system.facts().container


def test_no_check_crashes_on_the_machine_that_runs_the_tests(tmp_path: Path) -> None:
    (tmp_path / "doctor.py").write_text(DOCTOR)
    paths = f"{Path(__file__).parent}{os.pathsep}{PYTHONPATH}"
    environ = os.environ | {"PYTHONPATH": paths, "REMEDY": f"{tmp_path}/remedy"}
    command = [sys.executable, f"{tmp_path}/doctor.py"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert "crashed" not in json.loads(done.stdout).values()
