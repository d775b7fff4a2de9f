"""The tags of an image: one that never moves, and those that people type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.catalog import Base, Variant


def content_tag(base: Base, variant: Variant, digest: str) -> str:
    """Return the tag of one content for ever: `2.0.1-cu117-py311-bookworm-r<12 hex>`.

    `digest` is the hex of the image's manifest.
    """
    torch = Version(variant.torch).public
    python = base.python.replace(".", "")
    return f"{torch}-{variant.id}-py{python}-{base.release}-r{digest[:12]}"


def moving_tags(variant: Variant, locked: Sequence[Variant]) -> tuple[str, ...]:
    """Return the tags that move with each push: `cu117`, and `latest-cuda` for the newest CUDA.

    `locked` are the variants that can be built, from which the newest is taken.
    """
    newest = max(
        (one for one in locked if one.cuda), key=lambda one: Version(one.cuda or "0"), default=None
    )
    if not variant.cuda:
        return (variant.id, f"latest-{variant.id}")
    return (variant.id, "latest-cuda") if newest and newest.id == variant.id else (variant.id,)
