"""The system that torch's wheels are made for: its C library and its processor."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from torchkiln import gpus
from torchkiln.doctor import builds
from torchkiln.doctor.cgroup import read
from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.distribution import os_release
from torchkiln.doctor.installer import install

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Environment
    from torchkiln.doctor.facts import Facts

_LAST_OLD: Final = "2.5.1"
"""The last torch whose wheels run on glibc 2.17; since 2.6 they are manylinux_2_28."""

_CONFSTR_SINCE: Final = (3, 8)
"""Before, platform.libc_ver() guessed from the strings in Python's own file."""

_IN_DEBIAN: Final = "docker run -it python:3.11-slim"


@check("system", area="machine", rank=39)
def system(facts: Facts) -> Outcome:
    """Tell which system it is."""
    name = os_release(facts.subject.root).get("PRETTY_NAME", "an unknown system")
    kernel = read(facts.subject.root / "proc/sys/kernel/osrelease")
    return ok(f"{name}, Linux {kernel}, {os.uname().machine}")


@check("glibc", area="machine", rank=30)
def glibc(facts: Facts) -> Outcome:
    """Compare the C library with the one that torch's wheel was made for."""
    root, environment = facts.subject.root, facts.environment
    if environment is None:
        return skipped("there is no Python to install torch for")
    if any(root.glob("lib/ld-musl-*.so.1")) and not any(root.glob("lib*/ld-linux-*.so.*")):
        cause = "torch's wheels are for glibc alone: pip finds none, or import fails"
        link = "docker-library/python#341"
        return problem("the C library is musl", cause=cause, remedy=_IN_DEBIAN, link=link)
    found = _version(environment.libc if environment.version >= _CONFSTR_SINCE else "")
    needed = _needed(facts)
    if not found:
        return skipped("the C library does not tell its version")
    if found >= needed:
        return ok(f"glibc {gpus.shown(found)}; torch needs {gpus.shown(needed)}")
    build = builds.installed_build(facts)
    say = problem if build else warning
    return say(
        f"glibc is {gpus.shown(found)}",
        cause=f"torch{f' {build.release}' if build else ' since 2.6'} needs {gpus.shown(needed)}",
        remedy=_older(facts, environment) if found >= (2, 17) else _IN_DEBIAN,
        link="pytorch/pytorch#150724",
    )


def _version(text: str) -> tuple[int, int] | None:
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _needed(facts: Facts) -> tuple[int, int]:
    """Return the glibc that the installed torch needs, by the tags of its wheel."""
    found = facts.environment.find("torch") if facts.environment else None
    if found is None:
        return 2, 28
    tags = read(found.metadata / "WHEEL") if found.metadata else ""
    floors = [(int(a), int(b)) for a, b in re.findall(r"manylinux_(\d+)_(\d+)_", tags)]
    older = tuple(map(int, re.findall(r"\d+", found.version)[:2])) < (2, 6)
    return min(floors) if floors else (2, 17) if older else (2, 28)


def _older(facts: Facts, environment: Environment) -> str:
    """Return the command that installs the last torch for an old C library."""
    fitting = [one for one in gpus.cudas(_LAST_OLD) if builds.fits(one, _LAST_OLD, facts.machine)]
    tag = f"cu{fitting[-1].replace('.', '')}" if fitting else "cpu"
    return install(environment, facts.subject.environ, f"torch=={_LAST_OLD}+{tag}", page=tag)


@check("processor", area="machine", rank=32)
def processor(facts: Facts) -> Outcome:
    """Look for the instructions that torch's fast code is made of."""
    text = read(facts.subject.root / "proc/cpuinfo")
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    killed = facts.torch is not None and "SIGILL" in facts.torch.failure
    if not flags and not killed:
        return skipped("the kernel does not tell what the processor can do")
    if not killed and ("avx2" in flags or "asimd" in flags):
        return ok(
            "the processor has AVX2" if "avx2" in flags else "the processor has Advanced SIMD"
        )
    if not killed and facts.subject.environ.get("ATEN_CPU_CAPABILITY"):
        return ok("the processor has no AVX2, and torch is told so")
    say = problem if killed else warning
    return say(
        "importing torch ended by SIGILL" if killed else "the processor has no AVX2",
        cause="torch uses instructions that the processor, or its virtual machine, has not",
        remedy="export ATEN_CPU_CAPABILITY=default",
        link="pytorch/pytorch#12112",
    )
