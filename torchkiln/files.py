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


class UnsupportedError(OSError):
    """The file system cannot do what is needed of it."""


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


def link_or_copy(source: Path | str, target: Path | str) -> int:
    """Give a file or symlink a second name; return 0.

    Where the file system allows no (more) hard links, make a copy and return its bytes.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
        return os.lstat(target).st_size
    return 0


def demand_links(folder: Path, reason: str) -> None:
    """Raise `UnsupportedError` with the reason unless files of `folder` can have several names."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.link(file.name, f"{file.name}.link")
        except OSError as error:
            why = f"its file system does not support hard links, which {reason}"
            raise UnsupportedError(error.errno, why) from error
        Path(f"{file.name}.link").unlink()


def sha256_of(stream: IO[bytes]) -> str:
    """Return the sha256 (hex) of all that can be read from `stream`."""
    digest = hashlib.sha256()
    while data := stream.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()
