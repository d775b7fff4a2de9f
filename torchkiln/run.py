"""Run commands in an image without an engine: which folders, which uid, which GPUs."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Final

from torchkiln import foreground
from torchkiln.config import ENTRYPOINT, WORKDIR
from torchkiln.errors import SandboxError
from torchkiln.gpu import gpu_mounts
from torchkiln.sandbox import Mount, Sandbox, check, program
from torchkiln.tree import image_tree

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from torchkiln.image import Image
    from torchkiln.store import Store

_UID: Final = 1000
_KEYS: Final = frozenset({Signals.SIGINT, Signals.SIGQUIT})
# A network without names is of little use, and its names are the host's business.
_NETWORK_FILES: Final = ("/etc/resolv.conf", "/etc/hosts")
# coreutils' `env`, before the entry point, whose shell cannot undo what it was started with.
_UNBLOCK: Final = (
    "/usr/bin/env",
    f"--default-signal={','.join(number.name for number in foreground.PASSED)}",
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run: `mounts` as on the command line (`HOST[:TARGET][:rw]`)."""

    mounts: tuple[str, ...] = ()
    network: bool = False
    uid: int = _UID
    interactive: bool = False


def sandbox(store: Store, image: Image, options: RunOptions) -> Sandbox:
    """Return the sandbox in which `image` runs as it would under a container engine."""
    tree = image_tree(store, image.layers)
    mounts = [parse_mount(text) for text in options.mounts]
    for mount in mounts:
        _check_target(tree, mount)
    network = [Mount(source=Path(name).resolve(), target=name) for name in _NETWORK_FILES]
    found = [mount for mount in network if mount.source.exists()]
    # A CPU image has no place for the driver and no use for it.
    gpus = gpu_mounts() if "NVIDIA_VISIBLE_DEVICES" in image.environment else ()
    return Sandbox(
        root=tree,
        env=image.environment,
        uid=options.uid,
        cwd=WORKDIR,
        mounts=(*gpus, *(found if options.network else ()), *mounts),
        network=options.network,
        interactive=options.interactive,
    )


def parse_mount(text: str) -> Mount:
    """Return the mount that `HOST[:TARGET][:rw]` describes; TARGET is /workspace by default."""
    source, *rest = text.split(":")
    writable = rest[-1:] == ["rw"]
    rest = rest[:-1] if writable or rest[-1:] == ["ro"] else rest
    target = rest[0] if rest else WORKDIR
    path = Path(source).expanduser().absolute()
    if not source or len(rest) > 1 or not target.startswith("/") or ".." in Path(target).parts:
        what = f"this is no mount: {text}"
        raise SandboxError(what, hint="--mount HOST[:TARGET][:rw], as in --mount data:/data:rw")
    if not path.exists():
        what = f"there is nothing to mount: {path}"
        raise SandboxError(what, hint=f"mkdir -p {path}")
    return Mount(source=path, target=target, writable=writable)


def _check_target(tree: Path, mount: Mount) -> None:
    """Refuse a place below one of the image's own folders, where nothing can be made."""
    target = mount.target.lstrip("/")
    top = tree / Path(target).parts[0] if target else tree
    if top.exists() and top.name not in {"tmp", "run"} and not (tree / target).exists():
        what = f"the image has no such place, and is read-only: {mount.target}"
        raise SandboxError(what, hint=f"mount at {WORKDIR}, or at a new top-level folder: /data")


def run(store: Store, image: Image, argv: Sequence[str], options: RunOptions) -> int:
    """Run `argv` through the image's entry point and return its exit code.

    Signals go to the program alone, once: bwrap's own processes block them, also where all of our
    process group gets them. Those that a terminal's keys make go to the program's group, as a
    terminal sends them: a training behind a script or a launcher hears of Ctrl-C too.
    """
    check(options.uid)  # before gigabytes are unpacked
    box = sandbox(store, image, options)

    def start() -> subprocess.Popen[bytes]:
        with foreground.deaf():
            return box.start([*_UNBLOCK, *ENTRYPOINT, *argv], stdin=None)

    return foreground.run(start, _send).code


def _send(bwrap: subprocess.Popen[bytes], number: Signals) -> bool:
    found = program(bwrap.pid)
    if found is None:
        return False
    with suppress(ProcessLookupError):  # it has just ended
        group = os.getpgid(found)
        # In our own group, as a shell at a terminal begins, all have heard of it.
        if number in _KEYS and group != os.getpgrp():
            os.killpg(group, number)
        else:
            os.kill(found, number)
    return True
