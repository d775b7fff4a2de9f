"""The picture of an image's layers: an SVG that reads on light and dark pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from torchkiln.image import Image
    from torchkiln.layer import Layer

_NAME: Final = 300  # pixels for the names, then the bars, then the sizes
_BARS: Final = 380
_SIZES: Final = 200
_ROW: Final = 26
_HEAD: Final = 64
_WIDTH: Final = _NAME + _BARS + _SIZES
_COLOURS: Final = {"debian": "#a80030", "torchkiln": "#6e7781", "wheels": "#3572a5"}
_TORCH: Final = "#de3412"
_NVIDIA: Final = "#76b900"
_OTHER: Final = "#3572a5"


def layers_svg(image: Image) -> str:
    """Return the layers of `image` as bars, dark for compressed and pale for unpacked bytes."""
    largest = max(layer.unpacked for layer in image.layers)
    height = _HEAD + _ROW * len(image.layers) + 12
    rows = [_row(layer, index, largest) for index, layer in enumerate(image.layers)]
    title = escape(f"{image.reference}: {len(image.layers)} layers")
    total = f"{_megabytes(image.size)} compressed, {_megabytes(image.unpacked)} unpacked"
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" \
viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13" fill="#57606a">
<text x="16" y="26" font-size="16" font-weight="bold">{title}</text>
<text x="16" y="46">{total}</text>
{"".join(rows)}</svg>
"""


def _row(layer: Layer, index: int, largest: int) -> str:
    y = _HEAD + _ROW * index
    packed, unpacked = (max(1, _BARS * size // largest) for size in (layer.size, layer.unpacked))
    colour = _colour(layer.name)
    text = y + 14
    return (
        f'<text x="{_NAME - 12}" y="{text}" text-anchor="end">{escape(layer.name)}</text>'
        f'<rect x="{_NAME}" y="{y}" width="{unpacked}" height="18" rx="2" fill="{colour}"'
        ' opacity="0.3"/>'
        f'<rect x="{_NAME}" y="{y}" width="{packed}" height="18" rx="2" fill="{colour}"/>'
        f'<text x="{_WIDTH - 16}" y="{text}" text-anchor="end">'
        f"{_megabytes(layer.size)} of {_megabytes(layer.unpacked)}</text>\n"
    )


def _colour(name: str) -> str:
    if name.startswith("nvidia-"):
        return _NVIDIA
    if name.startswith(("torch-", "triton-")):
        return _TORCH
    return _COLOURS.get(name.partition("-")[0], _OTHER)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"  # noqa: PLR2004
