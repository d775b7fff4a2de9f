"""The files by which clusters' runtimes learn what a registry's config tells Docker.

A squashfs has no config: environment, entry point and labels must be files in it. Each runtime has
its own, and they do not meet, so one file system serves all:

- enroot and pyxis: what `enroot import` writes (enroot 4.1, `src/docker.sh`, `docker::configure`);
- Apptainer: what `apptainer build` writes for an OCI image (`internal/pkg/build/sources/`:
  `conveyorPacker_oci.go`, `base_environment.go`), in the form that its action script sources
  (`internal/pkg/util/fs/files/action_script.sh`), and as Singularity 3.6 and newer read it;
- Charliecloud: `/ch/environment`, which `ch-run --set-env` reads, and folders to mount at, as it
  cannot make any in a file system that is read-only (ch-run(1)).
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, Final

from torchkiln.layer import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_OWNER: Final = "export"
_APPTAINER: Final = ".singularity.d"
_MOUNT_POINTS: Final = 10  # /mnt/0 to /mnt/9, where `ch-run --bind` puts folders by default


def cluster_files(config: Mapping[str, Any], name: str) -> list[Entry]:
    """Return the files for an image with this OCI config; `name` says which image it is."""
    runtime = config.get("config", {})
    variables = [text.partition("=")[::2] for text in runtime.get("Env", [])]
    return [
        *_enroot(runtime, name),
        *_apptainer(runtime, variables),
        _text("ch/environment", _lines(f"{key}={value}" for key, value in variables)),
        *(Entry.directory(f"mnt/{n}", owner=_OWNER) for n in range(_MOUNT_POINTS)),
    ]


def _enroot(runtime: Mapping[str, Any], name: str) -> list[Entry]:
    workdir = runtime.get("WorkingDir") or "/"
    entrypoint, command = _start(runtime)
    labels = sorted((runtime.get("Labels") or {}).items())
    script = f"""\
mkdir -p {shlex.quote(workdir)} 2>/dev/null
cd {shlex.quote(workdir)} && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec {shlex.join(entrypoint)} "$@"
else
    exec {shlex.join([*entrypoint, *command])}
fi
"""
    about = [f"# enroot-provenance: {name}", *(f"# {key} {_line(text)}" for key, text in labels)]
    return [
        _text("etc/rc", _lines([*about, ""]) + script),
        _text("etc/rc.local", "# Sourced by /etc/rc when the container starts.\n"),
        _text("etc/environment", _lines(runtime.get("Env", []))),
        _text("etc/fstab", ""),
    ]


def _apptainer(runtime: Mapping[str, Any], variables: Sequence[tuple[str, str]]) -> list[Entry]:
    entrypoint, command = _start(runtime)
    scripts = {
        # Apptainer gives the variables of `--env` between these two, which it knows by name.
        "env/10-docker2singularity.sh": _lines(_export(*variable) for variable in variables),
        "env/90-environment.sh": "",
        "env/99-base.sh": """\
LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
PS1="${PS1:-Apptainer> }"
export LD_LIBRARY_PATH PS1
""",
        "runscript": f"""\
[ $# -gt 0 ] || set -- {shlex.join(command)}
exec {shlex.join(entrypoint)} "$@"
""",
    }
    labels = json.dumps(runtime.get("Labels") or {}, indent="\t", sort_keys=True)
    return [
        *(
            _text(f"{_APPTAINER}/{path}", f"#!/bin/sh\n{body}", 0o755)
            for path, body in scripts.items()
        ),
        _text(f"{_APPTAINER}/labels.json", labels),
        Entry.directory(f"{_APPTAINER}/libs", owner=_OWNER),  # `--nv` puts the driver here
    ]


def _start(runtime: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    entrypoint, command = runtime.get("Entrypoint") or (), runtime.get("Cmd") or ()
    return entrypoint, command if entrypoint or command else ("/bin/sh",)


def _export(name: str, value: str) -> str:
    """Return the line that sets a variable unless the caller has; the image's PATH always holds."""
    line = f"export {name}={shlex.quote(value)}"
    return line if name == "PATH" else f'[ -n "${{{name}:-}}" ] || {line}'


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _line(text: str) -> str:
    return text.replace("\n", " ")


def _text(path: str, text: str, mode: int = 0o644) -> Entry:
    return Entry.text(path, text.encode(), mode=mode, owner=_OWNER)
