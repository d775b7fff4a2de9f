"""Ask another Python a question, in a process that may crash or hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a question came to: `value` is the JSON that it printed last, None where it failed.

    `failure` then says how: the last line of its error, the signal that ended it, or the time it
    did not answer in. `errors` is all that it wrote to stderr.
    """

    value: Any = None
    failure: str = ""
    errors: str = ""


def ask(
    python: Path,
    code: str,
    environ: Mapping[str, str],
    patience: float,
    options: Sequence[str] = (),
) -> Answer:
    """Run `code` in `python`, which prints one line of JSON; `patience` is in seconds.

    It runs in an empty folder, so that no file of the present one is imported, and in a session of
    its own, so that whatever it started ends with it.
    """
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        try:
            child = subprocess.Popen(
                [python, *options, "-c", code],
                cwd=folder,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return Answer(failure=str(error))
        try:
            out, err = child.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            _, err = child.communicate()
            return Answer(failure=f"no answer in {patience:.0f} s", errors=_text(err))
    return _answer(child.returncode, _text(out), _text(err))


def _answer(code: int, out: str, err: str) -> Answer:
    lines = err.strip().splitlines()
    if code < 0:
        return Answer(failure=f"ended by {signal.Signals(-code).name}", errors=err)
    if code:
        return Answer(failure=lines[-1] if lines else f"exit code {code}", errors=err)
    try:
        return Answer(value=json.loads(out.splitlines()[-1]), errors=err)
    except (IndexError, ValueError):
        return Answer(failure="no answer that can be read", errors=err)


def _text(output: bytes) -> str:
    return output.decode(errors="replace")
