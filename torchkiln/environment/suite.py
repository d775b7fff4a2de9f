"""The smoke suite in an environment, and what it said the last time."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from torchkiln.environment.installer import plain
from torchkiln.progress import waiting
from torchkiln.smoke import conclude, device, judged, read_report
from torchkiln.store import remove_tree

if TYPE_CHECKING:
    from torchkiln.environment.record import Environment
    from torchkiln.pipeline import Project
    from torchkiln.smoke import SmokeReport


def smoke(project: Project, env: Environment, variant: str, *, again: bool) -> SmokeReport:
    """Run the smoke suite in the environment, or return what it said before.

    A bad verdict raises `SmokeError` with the suite's table; the environment stays.
    """
    folder = env.own / f"smoke-{device()}"
    if not again:
        try:
            report = read_report(folder, fresh=False)
        except (OSError, ValueError, KeyError):
            pass
        else:
            if report.passed:
                return report
    partial = folder.with_name(f".{folder.name}")
    remove_tree(partial)
    partial.mkdir(parents=True)
    command = [str(env.interpreter), "-I", "-B", str(project.root / "smoke")]
    command += ["--image", str(env.own / "image.json"), "--output", str(partial)]
    environ = plain(project.environ)
    with waiting(f"running the smoke suite in {env.shown}"):
        done = subprocess.run(command, env=environ, capture_output=True, check=False)
    conclude(partial, variant, done.stdout.replace(bytes(partial), bytes(folder)), done.stderr)
    remove_tree(folder)
    partial.rename(folder)
    return judged(folder, variant, done.returncode)
