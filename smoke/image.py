"""What the image says of itself: `/opt/torchkiln/image.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ImageError(Exception):
    """The description of the image is missing or is not one."""


@dataclass(frozen=True, kw_only=True)
class Locked:
    """A distribution that the lock puts into the image."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Image:
    """The variant's id, the torch, CUDA (None: CPU only) and wheels that it promises."""

    variant: str
    torch: str
    cuda: str | None
    wheels: tuple[Locked, ...]

    def promises_cuda(self) -> bool:
        """Return whether the image promises CUDA."""
        return self.cuda is not None


def read_image(path: Path) -> Image:
    """Return the description at `path`, or raise `ImageError`."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        wheels = tuple(
            Locked(name=entry["name"], version=entry["version"]) for entry in body["lock"]["wheels"]
        )
        return Image(variant=body["variant"], torch=body["torch"], cuda=body["cuda"], wheels=wheels)
    except FileNotFoundError:
        message = f"there is no description of the image: {path}"
        raise ImageError(message) from None
    except OSError as error:
        message = f"the description of the image cannot be read: {error}"
        raise ImageError(message) from None
    except KeyError as error:
        message = f"the description of the image lacks the key {error}: {path}"
        raise ImageError(message) from None
    except (ValueError, TypeError) as error:
        message = f"the description of the image is not what it should be: {path}: {error}"
        raise ImageError(message) from None
