"""Files: written so that a reader sees the old bytes or the new ones, linked, and hashed."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import IO

from torchkiln.errors import StoreError


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` through a temporary file beside it: write, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files 0600; what we write is for everyone who may read the folder.
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def open_own(path: Path, flags: int) -> int:
    """Open a file of the store that only we make; a symbolic link in its place is refused.

    Return the descriptor; the link is a `StoreError`.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        what = f"cannot write through a symbolic link in the store: {path}"
        raise StoreError(what, hint=shlex.join(["rm", str(path)])) from None


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system allows no (more) hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def sha256_of(stream: IO[bytes]) -> str:
    """Return the sha256 (hex) of all that can be read from `stream`."""
    digest = hashlib.sha256()
    while data := stream.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()
