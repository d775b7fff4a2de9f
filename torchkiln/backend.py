"""Hosts for testinfra: an unpacked image in the sandbox, and containers of an engine."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any, Final

from testinfra.backend.base import (  # type: ignore[import-untyped]
    BaseBackend,
    CommandResult,
)
from testinfra.host import Host, get_host  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from torchkiln.sandbox import Sandbox


__all__ = ["Host", "SandboxBackend", "container_host", "host"]


class SandboxBackend(BaseBackend):  # type: ignore[misc]
    """Runs each command by itself with `/bin/sh -c`, as testinfra's backend for Docker does."""

    NAME: Final = "sandbox"

    def __init__(self, sandbox: Sandbox, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(sandbox.root.name, *args, **kwargs)
        self.sandbox = sandbox

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:  # noqa: ANN401
        """Run `command`, in which each `%s` stands for one quoted argument, to its end."""
        line = self.get_command(command, *args)
        done = self.sandbox.run(
            ["/bin/sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return self.result(done.returncode, self.encode(line), done.stdout, done.stderr)

    def get_encoding(self) -> str:
        """Return the encoding of output: images set LANG to a UTF-8 locale."""
        return "utf-8"


def host(sandbox: Sandbox) -> Host:
    """Return testinfra's host for an image; its modules run in `sandbox`."""
    return Host(SandboxBackend(sandbox))


def container_host(engine: str, container: str) -> Host:
    """Return testinfra's own host for a running container of `docker` or `podman`."""
    return get_host(f"{engine}://{container}")
