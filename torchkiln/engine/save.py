"""Read what an image in an engine holds, from the stream in which the engine saves it."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, cast

from torchkiln.engine.images import asked
from torchkiln.image_reader import read_archive
from torchkiln.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchkiln.engine.connection import Engine
    from torchkiln.engine.images import EngineImage
    from torchkiln.listing import ImageListing


def read_engine_image(engine: Engine, image: EngineImage) -> ImageListing:
    """Return what `image` holds; nothing is written to disk on the way."""
    what = f"cannot read the image `{image.reference}`"
    with asked(engine, what), Progress("reading", None) as progress:
        stream = ChunkStream(engine.client.api.get_image(image.reference), progress.advance)
        return read_archive(cast("IO[bytes]", io.BufferedReader(stream)), image.reference)


class ChunkStream(io.RawIOBase):
    """An iterator of bytes as a file; `advance` is told how many were taken from it."""

    def __init__(
        self, chunks: Iterator[bytes], advance: Callable[[int], object] = lambda _: None
    ) -> None:
        self._chunks = chunks
        self._advance = advance
        self._rest = b""

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Give what is left of a chunk, else of the next."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
            self._advance(len(chunk))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
