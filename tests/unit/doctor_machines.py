"""Machines for the doctor's tests: file trees as drivers and containers make them.

A `Patient` is one: files under a root, environment variables, a Python with torch in it, and
programs on a PATH of its own, which change the tree as the real ones change a machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from torchkiln.doctor.checks import load_checks
from torchkiln.doctor.container import container_of
from torchkiln.doctor.environment import Environment, Installed
from torchkiln.doctor.facts import Facts, Subject
from torchkiln.doctor.guard import Finding
from torchkiln.doctor.report import diagnosis
from torchkiln.machine import this_machine

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Check
    from torchkiln.doctor.torch_probe import TorchProbe

CHECKS = [one for one in load_checks() if one.area != "network"]
"""All but those that ask servers."""

LIB = "usr/lib/x86_64-linux-gnu"
ELF = "\x7fELF\x02"

# Beside those of a test. `sudo` and the clients of runtimes do what stands behind them.
PROGRAMS = {"sudo": 'exec "$@"', "reboot": "true", "ldconfig": "true"}


@dataclass(kw_only=True)
class Patient:
    """A machine under `root`; `torch` is what the torch in its Python answers."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    environment: Environment | None = None
    torch: TorchProbe | None = None

    def put(self, name: str, text: str = "") -> Path:
        """Write a file and return its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def program(self, name: str, body: str) -> None:
        """Put a shell script on the PATH; it finds the tree as `$ROOT`."""
        self.put(f"programs/{name}", f"#!/bin/sh\n{body}\n").chmod(0o755)

    def library(self, name: str, version: str, folder: str = LIB) -> None:
        """Put a library of the driver into `folder`, with the name that programs load."""
        self.put(f"{folder}/{name}.{version}", ELF)
        link = self.root / folder / f"{name}.1"
        link.unlink(missing_ok=True)
        link.symlink_to(f"{name}.{version}")

    def variables(self) -> dict[str, str]:
        """Return the environment variables, with the PATH and the root for the programs."""
        home = {"HOME": "/root", "USER": "someone"}
        return home | self.environ | {"PATH": f"{self.root}/programs", "ROOT": str(self.root)}

    def facts(self) -> Facts:
        """Return what the doctor gathers of it."""
        subject = Subject(environ=self.variables(), python=None, root=self.root)
        # The NVML of the machine that runs the tests knows nothing of this tree.
        with patch("torchkiln.machine._NVML", ("no-nvml",)):
            machine = this_machine(subject.environ, self.root)
        return Facts(
            subject=subject,
            machine=machine,
            container=container_of(self.root, subject.environ),
            environment=self.environment,
            torch=self.torch,
        )

    def examine(self) -> list[Finding]:
        """Return what all checks find, the worst first."""
        facts = self.facts()
        return diagnosis([_ask(one, facts) for one in CHECKS])

    def first(self) -> Finding:
        """Return what the doctor names first of what is not well."""
        found = self.examine()[0]
        assert found.outcome.verdict not in {"ok", "skipped"}, "all is well"
        return found

    def find(self, name: str) -> Finding:
        """Return what the check `name` finds."""
        check = next(one for one in CHECKS if one.id == name)
        return _ask(check, self.facts())

    def complaints(self) -> dict[str, str]:
        """Return the id and evidence of all that is not well."""
        return {
            one.check.id: one.outcome.evidence
            for one in self.examine()
            if one.outcome.verdict not in {"ok", "skipped"}
        }

    def mend(self, remedy: str) -> None:
        """Run `remedy` in a shell on this machine, and keep the variables that it leaves."""
        for name, body in PROGRAMS.items():
            if not (self.root / "programs" / name).exists():
                self.program(name, body)
        environ = self.variables()
        environ["PATH"] += ":/usr/bin:/bin"
        script = f'{remedy}\nstatus=$?; env -0 >"$ROOT/variables"; exit $status'
        done = subprocess.run(
            ["/bin/sh", "-c", script], env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (remedy, done.stdout, done.stderr)
        lines = (self.root / "variables").read_text().split("\0")
        kept = dict(line.split("=", 1) for line in lines if line)
        self.environ = {name: kept[name] for name in kept if name not in {"PATH", "ROOT", "PWD"}}

    def recovers(self, name: str) -> bool:
        """Tell whether the doctor names the check `name` first, and its remedy mends that."""
        found = self.first()
        assert found.check.id == name, found
        assert found.outcome.remedy, found
        self.mend(found.outcome.remedy)
        return self.find(name).outcome.verdict in {"ok", "skipped"}

    def with_torch(
        self,
        version: str,
        cuda: str | None,
        *,
        tag: str = "manylinux_2_28_x86_64",
        installer: str = "pip",
    ) -> None:
        """Install a torch; its Python is a script, whose `-m pip install` does as pip would."""
        site = self.root / "site-packages"
        self.put("site-packages/torch/version.py", f"cuda: Optional[str] = {cuda!r}\n")
        self.put(f"site-packages/torch-{version}.dist-info/WHEEL", f"Tag: cp311-cp311-{tag}\n")
        self.program("python", PIP)
        self.environment = an_environment(self.root / "programs/python", site)
        self.add("torch", version, installer=installer)
        if installer == "pip":
            self.add("pip", "26.3")

    def add(self, name: str, version: str, *, installer: str = "pip") -> None:
        """Install a distribution beside those that are there."""
        assert self.environment
        site = self.root / "site-packages"
        found = Installed(
            name=name,
            version=version,
            folder=site,
            metadata=site / f"{name}-{version}.dist-info",
            installer=installer,
        )
        self.environment = replace(self.environment, installed=(*self.environment.installed, found))


def _ask(check: Check, facts: Facts) -> Finding:
    """Return what `check` finds; without a process of its own, so that its faults are seen."""
    return Finding(check=check, outcome=check.function(facts), seconds=0)


# Puts the build in place that the index of the command has.
PIP = """\
for word; do case $word in
    */whl/cu*) tag=${word##*/cu}; cuda="'${tag%?}.${tag#${tag%?}}'" ;;
    */whl/cpu) cuda=None ;;
esac; done
echo "cuda: Optional[str] = $cuda" > "$ROOT/site-packages/torch/version.py"\
"""


def an_environment(python: Path, site: Path) -> Environment:
    """Return the facts of a Python 3.11 with nothing in its `site`."""
    return Environment(
        python=python,
        version=(3, 11, 2),
        implementation="CPython",
        bits=64,
        machine="x86_64",
        system="Linux",
        libc="glibc2.36",
        prefix=Path(sys.prefix),
        base_prefix=Path(sys.base_prefix),
        path=(site,),
        user_site=site / "user",
        user_site_on=False,
        include=site.with_name("include"),
        managed=False,
        ensurepip=True,
        installed=(),
    )


def a_system(root: Path) -> Patient:
    """Return a healthy Debian machine without a GPU."""
    patient = Patient(root=root)
    patient.put("etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\n')
    patient.put("etc/passwd", f"someone:x:{os.getuid()}:0::/root:/bin/sh\n")
    patient.put("proc/cpuinfo", "flags\t\t: fpu sse4_1 sse4_2 avx avx2 avx512f\n")
    patient.put("proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\n")
    patient.put("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
    patient.put("proc/self/status", "Uid:\t1000\t1000\t1000\t1000\nCpus_allowed_list:\t0-7\n")
    patient.put("proc/self/limits", LIMITS.format(processes=63000, files=1024))
    patient.put("proc/self/cgroup", "0::/\n")
    for folder in ("root", "tmp", "programs"):
        (root / folder).mkdir()
    patient.put("include/Python.h")
    patient.program("c++", "true")
    return patient


LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max processes             {processes}          63000                processes
Max open files            {files}              1048576              files
"""


def with_gpus(patient: Patient, *models: str, driver: str = "535.104.05") -> Patient:
    """Give the machine GPUs and a driver, all of it well."""
    text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Wed Aug 16 01:32:10 UTC 2023"
    patient.put("proc/driver/nvidia/version", f"{text}\n")
    patient.put("sys/module/nvidia/version", f"{driver}\n")
    for number, model in enumerate(models):
        patient.put(
            f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information", f"Model: \t {model}\n"
        )
        patient.put(f"dev/nvidia{number}")
    for name in ("dev/nvidiactl", "dev/nvidia-uvm"):
        patient.put(name)
    for name in ("libcuda.so", "libnvidia-ml.so"):
        patient.library(name, driver)
    return patient
