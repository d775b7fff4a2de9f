"""Which file a program gets that loads a library by its name: the rules of glibc's loader.

ld.so(8): the folders of LD_LIBRARY_PATH, then what ldconfig has put into its cache, then the
loader's own folders. It passes over files for another word size.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_OWN: Final = (
    *("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"),
    *("lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu"),
    *("lib64", "usr/lib64", "lib", "usr/lib"),
)
_ELF64: Final = b"\x7fELF\x02"


def find_library(name: str, root: Path, environ: Mapping[str, str]) -> Path | None:
    """Return the file under `root` that the loader takes for `name` (`libcuda.so.1`), or None."""
    return next((path for path in _candidates(name, root, environ) if _is_64_bit(path)), None)


def path_folders(root: Path, environ: Mapping[str, str]) -> list[Path]:
    """Return the folders of LD_LIBRARY_PATH, as they lie under `root`."""
    texts = re.split("[:;]", environ.get("LD_LIBRARY_PATH", ""))
    return [root / text.lstrip("/") for text in texts if text.startswith("/")]


def _candidates(name: str, root: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    yield from (folder / name for folder in path_folders(root, environ))
    yield from _cached(name, root)
    yield from (root / folder / name for folder in _OWN)


def _cached(name: str, root: Path) -> Iterator[Path]:
    """Yield what the cache of ldconfig has for `name`; its strings end with a NUL each."""
    try:
        cache = (root / "etc/ld.so.cache").read_bytes()
    except OSError:
        return
    for match in re.finditer(rb"\0/([^\0]*/" + re.escape(name.encode()) + rb")(?=\0)", cache):
        yield root / match[1].decode()


def _is_64_bit(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_ELF64)) == _ELF64
    except OSError:
        return False


def version_of(library: Path) -> str:
    """Return what a driver's library ends with (`libcuda.so.535.104.05`); "" where it is copied."""
    match = re.search(r"\.so\.(\d{3}(?:\.\d+)+)$", str(library.resolve()))
    return match[1] if match else ""
