"""The virtual environment of an image: where things lie in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, kw_only=True)
class Venv:
    """The virtual environment of an image: `prefix` without leading slash, Python's major.minor."""

    prefix: str
    python: str

    @property
    def site(self) -> str:
        """Return where packages go."""
        return f"{self.prefix}/lib/python{self.python}/site-packages"

    @property
    def headers(self) -> str:
        """Return where packages put their C headers, each in a folder of its name."""
        return f"{self.prefix}/include/python{self.python}"

    @property
    def interpreter(self) -> str:
        """Return the interpreter's path in the image, for `#!` lines."""
        return f"/{self.prefix}/bin/python"

    def owns(self, path: str) -> bool:
        """Tell whether the environment itself has `path`, which no wheel may replace."""
        folders = {f"{self.prefix}/bin", self.site, *map(str, PurePosixPath(self.site).parents)}
        own = (f"{self.prefix}/pyvenv.cfg", f"{self.prefix}/bin/python")
        return path in folders or path.startswith(own)
