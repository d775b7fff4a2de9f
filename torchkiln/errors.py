"""Every failure that a person can cause or mend, each with an exit code of its own.

A `KilnError` is expected: `tasks.py` prints it without a traceback and exits with its code.
Anything else that escapes is a defect of Torchkiln and shows its traceback.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class KilnError(Exception):
    """An expected failure: what failed (with its id), why, and a command that helps.

    `hint` is a command or a short instruction; it is shown after a blank line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        """Return the text that people see, in the shape uv's STYLE.md asks for."""
        lines = [f"error: {self.what}"]
        lines += [f"  {line}" for line in self.why.splitlines()]
        if self.hint:
            lines += ["", *f"hint: {self.hint}".splitlines()]
        return "\n".join(map(printable, lines))


def printable(line: str) -> str:
    """Return a line in which a terminal finds no commands: words from outside may hold some."""
    return "".join(one if one.isprintable() or one == "\t" else ascii(one)[1:-1] for one in line)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean ...?` with the nearest of `known`, or "" where none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean `{nearest[0]}`?" if nearest else ""


class HostError(KilnError):
    """Raised where this machine lacks something that every build needs."""

    exit_code = 10


class CatalogError(KilnError):
    """`images/variants.yaml` has faults, or a flag names no variant."""

    exit_code = 11


class LockError(KilnError):
    """A lock is missing, stale, edited by hand, or cannot be resolved."""

    exit_code = 12


class DriftError(KilnError):
    """A rendered file is not what its template and lock give."""

    exit_code = 13


class FetchError(KilnError):
    """An input could not be had, or its bytes are not the locked ones."""

    exit_code = 14


class ArchiveError(KilnError):
    """A wheel, .deb or layer is hostile, broken, or at odds with another."""

    exit_code = 15


class BuildError(KilnError):
    """A step of the build failed."""

    exit_code = 16


class StoreError(KilnError):
    """The store cannot be read or written: disk full, no permission, damaged."""

    exit_code = 17


class SandboxError(KilnError):
    """The sandbox could not start."""

    exit_code = 18


class SmokeError(KilnError):
    """The smoke suite ran in the image and gave a bad verdict."""

    exit_code = 19


class VerifyError(KilnError):
    """An image does not hold what its lock and the contract say."""

    exit_code = 20


class ReproducibilityError(KilnError):
    """Two builds of one lock differ."""

    exit_code = 21


class EngineError(KilnError):
    """Docker or Podman is absent, does not answer, or could not do what it was asked."""

    exit_code = 22


class DifferenceError(KilnError):
    """Two images that were compared are not the same."""

    exit_code = 23


class MachineError(KilnError):
    """A machine was described that there cannot be."""

    exit_code = 24


class FactsError(KilnError):
    """What is written down of torch's builds is not what their wheels hold."""

    exit_code = 25


class ExportError(KilnError):
    """An image cannot be written in this format, or at this place."""

    exit_code = 26


class LaunchError(KilnError):
    """A job was described that no cluster can run."""

    exit_code = 27


class RegistryError(KilnError):
    """A registry refused, did not answer, or has something else than it says."""

    exit_code = 28


class KeyFileError(KilnError):
    """A key file is missing, broken, or of a kind that signs no images."""

    exit_code = 29


class ProofError(KilnError):
    """What is told of an image is not signed, was changed, or does not fit the image."""

    exit_code = 30


class EnvError(KilnError):
    """A virtual environment cannot be made, or is not what its lock says."""

    exit_code = 31


class CondaError(KilnError):
    """A conda environment cannot be solved, is not what was asked for, or cannot be installed."""

    exit_code = 32
