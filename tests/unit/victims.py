"""A file of the user that words from outside name, and whether it is as it was."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT: Final = "alias ll='ls -l'\n" * 9


@dataclass(frozen=True)
class Victim:
    """The user's file at `path`; `name` is that path in the 64 characters of a sha256."""

    path: Path

    @property
    def name(self) -> str:
        """Return the path, to which slashes in front make no difference."""
        return str(self.path).rjust(64, "/")

    @property
    def is_unharmed(self) -> bool:
        """Tell whether content and mode are what they were, and nothing lies beside it."""
        mode = self.path.stat().st_mode & 0o777
        beside = list(self.path.parent.iterdir())
        return (self.path.read_text(), mode, beside) == (_TEXT, 0o600, [self.path])


@contextmanager
def victim() -> Iterator[Victim]:
    """Give a file in a folder whose name is short: pytest's own are too long for a hash."""
    with tempfile.TemporaryDirectory(prefix="v") as folder:
        path = Path(folder) / ".bashrc"
        path.write_text(_TEXT)
        path.chmod(0o600)
        made = Victim(path)
        assert len(made.name) == 64
        yield made
