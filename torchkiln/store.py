"""The store: every input and output, by the sha256 of its bytes.

    blobs/sha256/<hex>   wheels, .debs, layers, configs, manifests
    records/<kind>/<key>.json   what was made from what (a layer's key to its digests)
    images/<variant>/    OCI layouts, hard links into blobs
    trees/<diff_id>/     unpacked layers, for running
    tmp/                 work in progress, each entry locked by the process that owns it

A blob appears under its name only when it is whole, by rename after fsync. So whatever has a name
can be trusted after a kill -9, and two builds at once can only write the same bytes twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torchkiln import flock
from torchkiln.digests import is_sha256, parse_sha256
from torchkiln.errors import ArchiveError, StoreError
from torchkiln.files import UnsupportedError, open_own, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def default_root(environ: Mapping[str, str]) -> Path:
    """Return `$TORCHKILN_HOME`, or `torchkiln` in the user's cache folder (XDG Base Directory)."""
    if home := environ.get("TORCHKILN_HOME"):
        return Path(home).absolute()
    cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".cache"
    return Path(cache) / "torchkiln"


_READ: Final = 1 << 20
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*", re.ASCII)
_FULL_ERRNOS: Final = frozenset({28, 122})  # ENOSPC, EDQUOT
_STORE_ERRNOS: Final = _FULL_ERRNOS | {13, 30}  # EACCES, EROFS


@dataclass(frozen=True)
class Store:
    """A store at `root`; made on first use.

    `private` is a folder of one process for its unpacked images, in place of those that are kept.
    """

    root: Path
    private: Path | None = None

    @property
    def trees(self) -> Path:
        """Return where unpacked layers and images lie."""
        return self.private or self.root / "trees"

    @property
    def blobs(self) -> Path:
        """Return the folder of the blobs."""
        return self.root / "blobs" / "sha256"

    @property
    def partials(self) -> Path:
        """Return the folder of the files that have come in part."""
        return self.root / "partial"

    def blob(self, sha256: str) -> Path:
        """Return where the blob with this hash lies or would lie.

        What is no hash has no place, here and in `partial`: it raises `StoreError`.
        """
        return self.blobs / _named(sha256)

    def partial(self, sha256: str) -> Path:
        """Return where what has come of the blob lies until it is whole."""
        return self.partials / _named(sha256)

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Tell whether the blob is there, and with the size that it must have if that is known."""
        if not is_sha256(sha256):
            return False
        try:
            actual = self.blob(sha256).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return False
        return size is None or actual == size

    def checked(self, sha256: str, label: str) -> Path:
        """Return the blob after hashing it: nothing is parsed before its hash is known to be right.

        A disk that changed it raises `ArchiveError`, which calls it `label`.
        """
        path = self.blob(sha256)
        actual = hashlib.sha256()
        with path.open("rb") as stream:
            while data := stream.read(_READ):
                actual.update(data)
        if actual.hexdigest() != sha256:
            what = f"a file in the store is not what it was: {label}"
            raise ArchiveError(what, "its sha256 is another", f"rm {path}, then build again")
        return path

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give a folder on the store's file system that is gone afterwards.

        A lock file beside it is held while it is in use, so that `sweep` leaves it alone, and can
        remove it when its owner was killed.
        """
        parent = self.root / "tmp"
        folder = parent / uuid.uuid4().hex
        with self.reporting():
            self.make(parent)
            with _owned(folder.with_suffix(".lock")):
                folder.mkdir()
                try:
                    yield folder
                finally:
                    remove_tree(folder)

    def sweep(self) -> None:
        """Remove what killed processes left in `tmp/`."""
        for path in sorted((self.root / "tmp").glob("*.lock")):
            with contextlib.suppress(FileNotFoundError), self.reporting():
                handle = open_own(path, os.O_RDWR)
                try:
                    if flock.try_acquire(handle):
                        remove_tree(path.with_suffix(""))
                        path.unlink()
                finally:
                    os.close(handle)

    def adopt(self, path: Path, sha256: str) -> Path:
        """Move a finished file of a workspace to its name among the blobs; return its new path.

        The caller has computed `sha256` from the bytes that it wrote.
        """
        with self.reporting():
            target = self.blob(sha256)
            self.make(target.parent)
            path.chmod(0o444)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            path.replace(target)
        return target

    def put(self, data: bytes) -> str:
        """Store `data` as a blob and return its sha256 (hex)."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256, len(data)):
            with self.workspace() as folder:
                path = folder / "blob"
                path.write_bytes(data)
                self.adopt(path, sha256)
        return sha256

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold the lock `name`, so that two builds at once do a long step once."""
        path = self.root / "locks" / _word(name)
        with self.reporting():
            self.make(path.parent)
            handle = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            with self.reporting():
                flock.acquire(handle)
            yield
        finally:
            os.close(handle)

    def read_record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the record, None if there is none or it cannot be read."""
        try:
            record = json.loads(self.record(kind, key).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError, StoreError):
            return None
        return record if isinstance(record, dict) else None

    def write_record(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Keep `value` under `kind` and `key`."""
        with self.reporting():
            self.make(self.record(kind, key).parent)
            write_atomic(self.record(kind, key), json.dumps(value, sort_keys=True) + "\n")

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Turn a store that is full, forbidden, or lacks what is needed into a `StoreError`."""
        try:
            yield
        except OSError as error:
            if error.errno not in _STORE_ERRNOS and not isinstance(error, UnsupportedError):
                raise
            raise self._error(error) from error

    def demand_space(self, needed: int, doing: str) -> None:
        """Raise a `StoreError` unless `needed` bytes are free; `doing` says what for: `fetched`."""
        self.make(self.root)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            what = f"not enough space in the store: {self.root}"
            why = f"{needed / 1e6:,.0f} MB are to be {doing}, {free / 1e6:,.0f} MB are free"
            hint = "name a place with more space: export TORCHKILN_HOME=/path"
            raise StoreError(what, why, hint)

    def make(self, folder: Path) -> None:
        """Make a folder of the store and those above it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> StoreError:
        what = f"the store cannot be written: {self.root}"
        hint = "name another place: export TORCHKILN_HOME=/path"
        if error.errno in _FULL_ERRNOS:
            hint = f"free some space there, or {hint}"
        return StoreError(what, error.strerror or str(error), hint)

    def record(self, kind: str, key: str) -> Path:
        """Return where the record of this kind and key lies or would lie."""
        return self.root / "records" / _word(kind) / f"{_word(key)}.json"


@contextlib.contextmanager
def _owned(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which is gone afterwards.

    Opened for writing, which a lock on NFS needs (flock(2)).
    """
    while True:
        handle = open_own(path, os.O_RDWR | os.O_CREAT)
        flock.acquire(handle)
        # A sweep may have come between the two calls and removed the file that is now locked.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                break
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _named(sha256: str) -> str:
    """Return the name of a blob's file."""
    try:
        return parse_sha256(sha256)
    except ValueError as error:
        what = f"no file of the store has this name: {sha256!r}"
        raise StoreError(what, str(error)) from None


def _word(name: str) -> str:
    """Return a name in the store if it is one word, which no path is."""
    if not _WORD.fullmatch(name):
        what = f"no file of the store has this name: {name!r}"
        raise StoreError(what, "expected letters, digits and `._+-`, the first no sign")
    return name


def remove_tree(path: Path) -> None:
    """Remove a folder, also one that holds folders its owner may not write."""
    if path.is_symlink():  # what it leads to is not ours
        path.unlink()
        return
    if path.is_dir():
        path.chmod(0o700)
    for folder, names, _ in os.walk(path):
        for below in (Path(folder, name) for name in names):
            if not below.is_symlink():
                below.chmod(0o700)  # before os.walk goes into it
    shutil.rmtree(path, ignore_errors=True)
