"""Write a squashfs 4.0 file system: the same bytes each time, with no tool and no scratch space.

mksquashfs packs a tree that lies on a disk, and is not on every machine.
Here the files come as a stream, straight from the layers, and are compressed by all cores and
written in order. The format is that of Linux, `fs/squashfs/squashfs_fs.h`.

gzip, because every reader has it: kernels and squashfuse can be built without zstd, lz4 and lzo,
and Apptainer itself warns of all but gzip (`internal/pkg/build/assemblers/sif.go`).
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Final

from torchkiln.export.squashfs_tables import BLOCK, SUPERBLOCK, Inode, Run, pack, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torchkiln.layer import Entry

_PAGE: Final = 4096  # loop devices want whole pages


def write_squashfs(
    stream: IO[bytes],
    entries: Iterable[Entry],
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Write the file system that holds `entries` to `stream`, from where the stream stands.

    The stream can seek: the superblock is written last, so that a part is never taken for the
    whole. `entries` give each path once, parents first; a file's bytes are read before the next
    entry is asked for. `advance` is told of each file's bytes when they are read.
    """
    start = stream.tell()
    stream.write(bytes(SUPERBLOCK))
    inodes = []
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        data = _Data(stream, pool, 4 * cores)
        for entry in entries:
            inodes.append(data.add(entry))
            advance(entry.size)
        data.finish()
    head, tail = tables(inodes, data.fragments, data.end)
    stream.write(tail + bytes(-(data.end + len(tail)) % _PAGE))
    end = stream.tell()
    stream.seek(start)
    stream.write(head)
    stream.seek(end)


class _Data:
    """The blocks of all files: compressed by threads, written in the order in which they came.

    What a file has is cut into blocks; files smaller than a block share one, a fragment.
    """

    def __init__(self, stream: IO[bytes], pool: ThreadPoolExecutor, ahead: int) -> None:
        self._stream = stream
        self._pool = pool
        self._ahead = ahead
        self._waiting: deque[tuple[Run, Future[tuple[bytes, int]]]] = deque()
        self._fragment = bytearray()
        self.fragments: list[Run] = []
        self.end = SUPERBLOCK

    def add(self, entry: Entry) -> Inode:
        """Take in the contents of a file; return what the tables need to know of the entry."""
        if not entry.size or entry.chunks is None:
            return Inode(entry)
        if entry.size < BLOCK:
            return self._share(entry, b"".join(entry.chunks()))
        run = Run()
        for block in _blocks(entry.chunks()):
            self._put(run, block)
        return Inode(entry, run)

    def finish(self) -> None:
        """Write what is waiting."""
        self._end_fragment()
        while self._waiting:
            self._write()

    def _share(self, entry: Entry, data: bytes) -> Inode:
        if len(self._fragment) + len(data) > BLOCK:
            self._end_fragment()
        inode = Inode(entry, fragment=len(self.fragments), offset=len(self._fragment))
        self._fragment += data
        return inode

    def _end_fragment(self) -> None:
        if self._fragment:
            self.fragments.append(Run())
            self._put(self.fragments[-1], bytes(self._fragment))
            self._fragment.clear()

    def _put(self, run: Run, block: bytes) -> None:
        self._waiting.append((run, self._pool.submit(pack, block)))
        if len(self._waiting) > self._ahead:
            self._write()

    def _write(self) -> None:
        run, packing = self._waiting.popleft()
        data, size = packing.result()
        if not run.sizes:
            run.start = self.end
        run.sizes.append(size)
        self._stream.write(data)
        self.end += len(data)


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut chunks of any length into blocks; the last may be shorter."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        whole = len(rest) - len(rest) % BLOCK
        for start in range(0, whole, BLOCK):
            yield bytes(rest[start : start + BLOCK])
        del rest[:whole]
    if rest:
        yield bytes(rest)
