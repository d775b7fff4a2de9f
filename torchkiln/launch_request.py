"""A launch as people ask for it, in text, and every fault of it at once."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, cast

from torchkiln.errors import LaunchError, did_you_mean
from torchkiln.launch import SUBMIT, Kind, Launch, LaunchMount
from torchkiln.launch_code import CodeFile, read_code
from torchkiln.launch_rules import absent_code, broken

_Value = TypeVar("_Value")
_MEBIBYTES: Final = {"M": 1, "G": 1 << 10, "T": 1 << 20}
_MEMORY: Final = re.compile(r"([1-9]\d{0,8})([MGT])(?:i?B|i)?", re.ASCII | re.IGNORECASE)
_TIME: Final = re.compile(r"(?:(\d{1,3})-)?(\d{1,4}):([0-5]\d):([0-5]\d)", re.ASCII)
_TAG: Final = re.compile(r":[\w.-]+(?=@)", re.ASCII)
_CPUS: Final = 4  # of each process, unless told otherwise


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """The words of the command line, "" where nothing was said.

    An image is named in full, or by the `repository` and the `digest` (sha256, hex) of a variant's.
    `cuda` tells whether it is for CUDA, None where that is not known. A mount is
    `SOURCE:TARGET[:rw]`; a size is `16G` in powers of 1024; a time is `[DAYS-]HH:MM:SS`.
    `code` are paths below `folder`, where the person stands; `typed` is all from `launch` on.
    """

    kind: str
    command: tuple[str, ...]
    image: str = ""
    repository: str = ""
    digest: str = ""
    file: str = ""
    cuda: bool | None = None
    name: str = ""
    nodes: str = ""
    gpus: str = ""
    processes: str = ""
    cpus: str = ""
    memory: str = ""
    shm: str = ""
    time: str = ""
    mounts: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    folder: Path = Path()
    typed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Reads values; what cannot be read is noted, and its default taken for the time being."""

    faults: list[str] = field(default_factory=list)

    def number(self, flag: str, text: str, default: int) -> int:
        """Return a number that is not negative."""
        if not text:
            return default
        if re.fullmatch(r"\d{1,6}", text, re.ASCII):
            return int(text)
        return self._fault(f"`{flag} {text}`: expected a number", default)

    def size(self, flag: str, text: str, default: int) -> int:
        """Return a size in MiB."""
        if not text:
            return default
        if found := _MEMORY.fullmatch(text):
            return int(found[1]) * _MEBIBYTES[found[2].upper()]
        return self._fault(f"`{flag} {text}`: expected a size, as in `{flag} 16G`", default)

    def seconds(self, text: str) -> int:
        """Return a time limit in seconds, 0 for none."""
        if not text:
            return 0
        if found := _TIME.fullmatch(text):
            days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
            return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        expected = "expected [DAYS-]HH:MM:SS, as in `--time 4:00:00`"
        return self._fault(f"`--time {text}`: {expected}", 0)

    def mount(self, text: str) -> LaunchMount | None:
        """Return a mount, None where it has not its form."""
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        if source and target.startswith("/") and mode in {"", "ro", "rw"}:
            return LaunchMount(source=source, target=target, writable=mode == "rw")
        return self._fault(f"`--mount {text}`: expected SOURCE:/TARGET[:rw]", None)

    def code(self, folder: Path, name: str) -> list[CodeFile]:
        """Return the files that `name` brings, none where one of them does not fit."""
        try:
            return read_code(folder, name)
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return self._fault(f"`--code {name}`: {reason}", [])

    def _fault(self, text: str, default: _Value) -> _Value:
        self.faults.append(text)
        return default


def read(request: LaunchRequest) -> Launch:
    """Return the launch that is asked for; all that is wrong with it raises one `LaunchError`."""
    if request.kind not in SUBMIT:
        what = f"there is no kind of recipe `{request.kind}`{did_you_mean(request.kind, SUBMIT)}"
        raise LaunchError(what, "there are: " + ", ".join(SUBMIT))
    reader = _Reader()
    launch = _launch(request, reader)
    faults = [*reader.faults, *broken(launch, request)]
    if faults:
        what = f"the launch has {len(faults)} fault{'s' * (len(faults) > 1)}"
        raise LaunchError(what, "\n".join(faults), _hint(request, launch, faults))
    return launch


def _hint(request: LaunchRequest, launch: Launch, faults: list[str]) -> str:
    """Return the command with the code that it lacks, where it lacks nothing else."""
    absent = absent_code(launch, request)
    if "--" not in request.typed or len(faults) != len(absent):
        return "./kiln launch --help"
    end = request.typed.index("--")
    code = [word for one in absent for word in ("--code", one)]
    return shlex.join(["./kiln", *request.typed[:end], *code, *request.typed[end:]])


def _launch(request: LaunchRequest, reader: _Reader) -> Launch:
    gpus = reader.number("--gpus", request.gpus, int(request.cuda or False))
    processes = reader.number("--processes", request.processes, gpus or 1)
    memory = reader.size("--memory", request.memory, 16 << 10)
    mounts = [reader.mount(text) for text in request.mounts]
    code = {one.path: one for name in request.code for one in reader.code(request.folder, name)}
    return Launch(
        kind=cast("Kind", request.kind),
        name=request.name or "torchkiln",
        image=_image(request),
        file=request.file,
        command=request.command,
        nodes=reader.number("--nodes", request.nodes, 1),
        processes=processes,
        gpus=gpus,
        cpus=reader.number("--cpus", request.cpus, _CPUS * max(1, processes)),
        memory=memory,
        shm=reader.size("--shm", request.shm, memory // 4),
        seconds=reader.seconds(request.time),
        mounts=tuple(one for one in mounts if one),
        code=tuple(code.values()),
    )


def _image(request: LaunchRequest) -> str:
    """Return the image by its digest; Apptainer refuses a name that has a tag too."""
    if request.repository:
        return f"{request.repository}@sha256:{request.digest}"
    return _TAG.sub("", request.image)
