"""The catalog: `images/variants.yaml`, the one list that people write by hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Base:
    """The Debian base that all variants share.

    `python` is major.minor of the release's own Python; `packages` are the Debian packages that
    the base holds beside those that the release marks essential or required.
    """

    release: str
    python: str
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One image: `cuda` is major.minor, None for the CPU; `packages` are PEP 508 requirements.

    `torch` is a plain version (`2.0.1`); `index` is a key of `Catalog.indexes` where torch's wheel
    comes from when it is not the user's configured index.
    """

    id: str
    torch: str
    cuda: str | None
    index: str | None
    packages: tuple[str, ...]

    @property
    def flag(self) -> str:
        """Return the command-line flag that names this variant: `--cpu`, `--cuda 117`."""
        return f"--cuda {self.id.removeprefix('cu')}" if self.cuda else "--cpu"


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The base, the variants in the order of the file, and the named indexes (name to URL)."""

    base: Base
    indexes: dict[str, str]
    variants: tuple[Variant, ...]
