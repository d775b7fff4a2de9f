"""What `torch.compile` needs beside torch: a compiler, Python's headers, libcuda by its name."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.checks import check, ok, skipped, warning
from torchkiln.doctor.container import as_root
from torchkiln.doctor.distribution import install_compiler
from torchkiln.doctor.installer import conda
from torchkiln.doctor.libraries import find_library
from torchkiln.releases import numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Installed
    from torchkiln.doctor.facts import Facts

_LOADS_ITSELF: Final = (2, 1)
"""The first torch whose Triton finds libcuda.so.1 by itself."""

_COMPILERS: Final = ("c++", "g++", "clang++")


@check("compile", area="environment", rank=66)
def compile_(facts: Facts) -> Outcome:
    """Look for a C++ compiler and for Python's headers."""
    found = facts.environment
    torch = found.find("torch") if found else None
    if found is None or torch is None or numbers(torch.version) < (2,) or found.system != "Linux":
        return skipped("there is no torch with torch.compile for Linux")
    missing = [] if _compiler(facts.subject.environ) else ["a C++ compiler"]
    missing += [] if (found.include / "Python.h").is_file() else ["Python.h"]
    if not missing:
        return _linked(facts, torch)
    return warning(
        f"there is no {' and no '.join(part.removeprefix('a ') for part in missing)}",
        cause="torch.compile compiles what it generates, and fails where it cannot",
        remedy=_remedy(facts),
        link="pytorch/pytorch#107960",
    )


def _linked(facts: Facts, torch: Installed) -> Outcome:
    """Look for libcuda by the name that a linker takes: torch 2.0 gives it `-lcuda`."""
    root, environ = facts.subject.root, facts.subject.environ
    library = find_library("libcuda.so.1", root, environ)
    needed = facts.machine.driver is not None and numbers(torch.version) < _LOADS_ITSELF
    if not needed or library is None or find_library("libcuda.so", root, environ):
        return ok("there are a C++ compiler and Python.h")
    link = library.with_name("libcuda.so")
    return warning(
        f"there is {library.name}, and no {link.name}",
        cause="torch.compile links what it generates with -lcuda, and fails on a GPU",
        remedy=as_root(f"ln -s {library.name} {shlex.quote(str(link))}"),
        link="pytorch/pytorch#103417",
    )


def _remedy(facts: Facts) -> str:
    found = facts.environment
    if found and found.conda:
        return conda(found, facts.subject.environ, "cxx-compiler")
    return install_compiler(facts.subject.root)


def _compiler(environ: Mapping[str, str]) -> bool:
    names = [environ.get("CXX", ""), *_COMPILERS]
    return any(shutil.which(name, path=environ.get("PATH", "")) for name in names if name)
