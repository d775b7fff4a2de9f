"""The limit of a cold build: to inflate, hash and gzip the same bytes with ISA-L, on all cores.

ISA-L and OpenSSL do it in C; no file is made, no module compiled, no package set up.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from isal import isal_zlib

from torchkiln import pipeline
from torchkiln.archive import inflate
from torchkiln.deb import read_package

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def main(project: str, variant: str) -> None:
    """Do the work for a variant of the project, whose inputs are in the store."""
    opened = pipeline.open_project(Path(project))
    work = pipeline.job(opened, opened.catalog.variant(variant))
    sizes = {work.store.blob(wheel.sha256): wheel.size for wheel in work.lock.wheels}
    debs = [work.store.blob(deb.sha256) for deb in work.base_lock.debs]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        largest_first = sorted(sizes, key=lambda path: -sizes[path])
        tasks = [pool.submit(_squeeze, _members(path)) for path in largest_first]
        tasks += [pool.submit(_squeeze, _files(path)) for path in debs]
        for task in tasks:
            task.result()


def _squeeze(chunks: Iterable[bytes]) -> None:
    """Hash and compress the chunks, and hash what comes of it."""
    tar, blob = hashlib.sha256(), hashlib.sha256()
    compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    for chunk in chunks:
        tar.update(chunk)
        blob.update(compressor.compress(chunk))
    blob.update(compressor.flush())


def _members(wheel: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            yield from inflate(wheel, member)


def _files(deb: Path) -> Iterator[bytes]:
    yield read_package(deb, deb.name).files


if __name__ == "__main__":
    main(*sys.argv[1:])
