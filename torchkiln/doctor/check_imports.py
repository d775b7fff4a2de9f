"""Why `import torch` fails, where its own words or an experiment tell."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.doctor import library_path as paths
from torchkiln.doctor.ask import ask
from torchkiln.doctor.checks import check, ok, problem, skipped, warning
from torchkiln.doctor.installer import conda, install, reinstall

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.environment import Environment
    from torchkiln.doctor.facts import Facts

_CUDA: Final = re.compile(
    r"lib(?:cudart|cublas|cublasLt|cudnn\w*|cufft|cupti|curand|cusolver|cusparse|nccl|nvJitLink|nvrtc"
    r"|nvToolsExt|gomp|iomp5|stdc\+\+|torch\w*|c10\w*)\.so[.\d]*"
)

_LATE: Final = re.compile(
    r"(\S+): cannot (?:allocate memory in|load any more object with) static TLS"
)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A failure by the words that it has; what mends it may be a package of conda alone."""

    words: str
    cause: str
    wanted: str
    link: str
    conda: bool = False


_KNOWN: Final = (
    _Known(
        words="iJIT_NotifyEvent",
        cause="MKL 2024.1 dropped a function that this torch was linked with",
        wanted="mkl<2024.1",
        link="pytorch/pytorch#123097",
    ),
    _Known(
        words="GLIBCXX_",
        cause="an older libstdc++ is loaded than the one that torch was built with",
        wanted="libstdcxx-ng",
        link="pytorch/pytorch#59084",
        conda=True,
    ),
    _Known(
        words="No module named 'pkg_resources'",
        cause="setuptools 82 dropped pkg_resources, and this torch still imports it",
        wanted="setuptools<70",
        link="",
    ),
    _Known(
        words="cannot import name 'packaging' from 'pkg_resources'",
        cause="setuptools 70 dropped what this torch imports from its pkg_resources",
        wanted="setuptools<70",
        link="ROCm/pytorch#1424",
    ),
)


@check("library-path", area="environment", rank=44)
def library_path(facts: Facts) -> Outcome:
    """Import torch without LD_LIBRARY_PATH, where it fails with it."""
    environ, found = dict(facts.subject.environ), facts.environment
    text = environ.pop("LD_LIBRARY_PATH", "")
    if not text or found is None or facts.torch is None:
        return skipped("LD_LIBRARY_PATH is not set, or there is no torch")
    if not facts.torch.failure:
        return ok("torch can be imported with LD_LIBRARY_PATH")
    without = ask(found.python, "import torch; print(0)", environ, facts.subject.patience / 2)
    if without.failure:
        return ok("torch cannot be imported without LD_LIBRARY_PATH either")
    guilty = paths.folders(text, _CUDA)
    named = next((f"{name} in {folder}" for folder, name in guilty.items()), text)
    return problem(
        f"LD_LIBRARY_PATH has {named}: {facts.torch.failure}",
        cause="libraries on LD_LIBRARY_PATH are loaded in the place of those that torch brings",
        remedy=paths.without(text, guilty),
        link="pytorch/pytorch#119932",
    )


@check("openmp", area="environment", rank=58)
def openmp(facts: Facts) -> Outcome:
    """Look for two OpenMP runtimes, and for one that comes too late to be loaded."""
    found, torch = facts.environment, facts.torch
    if found is None or torch is None:
        return skipped("there is no torch")
    said = f"{torch.failure}\n{torch.output}"
    late = re.search(
        r"(\S+): cannot (?:allocate memory in|load any more object with) static TLS", said
    )
    twice = re.search(r"OMP: Error #15: .*?(lib\w+\.so)", said)
    if late or twice:
        name = Path(late[1]).name if late else twice[1] if twice else ""
        library = Path(late[1]) if late else next(iter(_in_prefix(found, name)), Path(name))
        return problem(
            late[0] if late else f"{name} is loaded twice",
            cause="torch needs its OpenMP runtime loaded first, and once",
            remedy=f"export LD_PRELOAD={shlex.quote(str(library))}",
            link="scikit-learn/scikit-learn#28362",
        )
    families = {re.split(r"[-.]", Path(one).name)[0] for one in torch.openmp}
    if len(families) < 2:  # noqa: PLR2004
        return ok(", ".join(sorted(families)) or "no OpenMP runtime is loaded")
    return warning(
        f"`import torch` loads {' and '.join(sorted(families))}",
        cause="MKL brings a second OpenMP runtime: threads are twice as many, and may hang",
        remedy="export MKL_THREADING_LAYER=GNU",
        link="pytorch/pytorch#37377",
    )


def _in_prefix(found: Environment, name: str) -> list[Path]:
    return sorted(found.prefix.glob(f"lib/**/{name}*"))


@check("import-known", area="environment", rank=62)
def known(facts: Facts) -> Outcome:
    """Compare what `import torch` raises with failures that are known."""
    found, torch = facts.environment, facts.torch
    if found is None or torch is None or not torch.failure:
        return skipped("torch can be imported, or there is none")
    said = f"{torch.output}\n{torch.failure}"
    for one in _KNOWN:
        if one.words in said and (found.conda or not one.conda):
            put = conda if one.conda else install
            remedy = put(found, facts.subject.environ, one.wanted)
            return problem(torch.failure, cause=one.cause, remedy=remedy, link=one.link)
    module = re.search(r"(?:No module named|cannot import name '\w+' from) '(\w+)'", torch.failure)
    if module and (wanted := _requirement(found, module[1])):
        cause = f"torch needs {wanted}, and it is not installed, or too old"
        remedy = install(found, facts.subject.environ, wanted)
        return problem(torch.failure, cause=cause, remedy=remedy, link="pytorch/pytorch#116945")
    return ok("it is none of those")


def _requirement(found: Environment, module: str) -> str:
    """Return the requirement of torch that brings `module`, "" where none is so named."""
    torch = found.find("torch")
    name = module.replace("_", "-").lower()
    every = found.required(torch) if torch else []
    return next((str(one) for one in every if one.name == name), "")


@check("torch-imports", area="environment", rank=69, last=True)
def imports(facts: Facts) -> Outcome:
    """Import torch in a process of its own."""
    found, torch = facts.environment, facts.torch
    if found is None or torch is None:
        return skipped("there is no torch")
    if not torch.failure:
        return ok(f"torch {torch.version}")
    return problem(
        torch.failure,
        cause="`import torch` fails, and no other check knows why",
        remedy=reinstall(found, facts.subject.environ, "torch"),
    )


@check("current-folder", area="environment", rank=43)
def current_folder(facts: Facts) -> Outcome:
    """Look for a torch.py or a folder torch where programs are started."""
    place = facts.subject.environ.get("PWD", "")
    named = [Path(place) / "torch.py", Path(place) / "torch/__init__.py"]
    hiding = next((one for one in named if place and one.is_file()), None)
    if hiding is None or (facts.environment and Path(place) in facts.environment.path):
        return ok("nothing in this folder hides torch")
    hidden = hiding if hiding.name == "torch.py" else hiding.parent
    names = (hidden.name, f"my_{hidden.name}")
    old, new = (shlex.quote(str(hidden.with_name(name))) for name in names)
    return problem(
        f"there is {hidden.name} in this folder",
        cause="Python imports it in the place of torch: `module 'torch' has no attribute ...`",
        remedy=f"mv {old} {new}",
        link="pytorch/pytorch#1158",
    )
