"""The host's own root as the image of a sandbox, for tests that need a system and not an image."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchkiln.errors import HostError
from torchkiln.image import Image
from torchkiln.layer import Entry, write_layer
from torchkiln.sandbox import Sandbox
from torchkiln.store import Store

HOST = Path("/")
# For a Python started by a test, with whatever the environment of the test does not pass on.
PYTHONPATH = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
PATH = {"PATH": "/usr/bin:/bin"}


def works() -> bool:
    """Tell whether the sandbox can start on this machine."""
    try:
        return not host(uid=1000).run(["true"], stderr=subprocess.DEVNULL).returncode
    except (OSError, HostError):
        return False


def host(**settings: Any) -> Sandbox:  # noqa: ANN401
    """Return a sandbox of the host's root."""
    return Sandbox(root=HOST, **({"env": PATH} | settings))


def output(sandbox: Sandbox, script: str) -> str:
    """Return what a shell script says in the sandbox, on either stream."""
    done = sandbox.run(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.decode()


def image(tmp_path: Path, *, cuda: bool = False) -> tuple[Store, Image]:
    """Return a store with an image that has an entry point and no programs."""
    store = Store(tmp_path / "store")
    entries = [
        Entry.text("opt/torchkiln/bin/entrypoint", b'#!/bin/sh\nexec "$@"\n', mode=0o755),
        Entry.directory("workspace", 0o1777),
        Entry.directory("usr/lib"),
        *(Entry.link(name, f"usr/{name}") for name in ("bin", "lib", "lib64")),
    ]
    with store.workspace() as folder:
        layer = write_layer(folder / "layer", "all", entries)
        store.adopt(folder / "layer", layer.digest)
    environment = {"PATH": "/usr/bin", "LANG": "C.UTF-8"} | (
        {"NVIDIA_VISIBLE_DEVICES": "all"} if cuda else {}
    )
    return store, Image(
        variant="cpu",
        reference="torchkiln:cpu",
        digest="0" * 64,
        config="0" * 64,
        layout=tmp_path,
        layers=(layer,),
        environment=environment,
    )


def may_mount() -> bool:
    """Tell whether a user namespace with a mount of its own can be had."""
    if not shutil.which("unshare"):
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return not subprocess.run(command, check=False, capture_output=True).returncode


def without_namespaces(*command: str) -> tuple[str, ...]:
    """Return what runs `command` where no user namespace can be made."""
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    return ("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", *command)


needs_mounts = pytest.mark.skipif(
    not may_mount(), reason="`unshare -rm mount -t tmpfs` does not work here"
)
needs_sandbox = pytest.mark.skipif(not works(), reason="user namespaces do not work here")
