from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from torchkiln.image import Image
from torchkiln.layer import Layer
from torchkiln.picture import layers_svg

SVG = "{http://www.w3.org/2000/svg}"


def image(*layers: tuple[str, int, int]) -> Image:
    made = [
        Layer(name=name, diff_id="0" * 64, digest="0" * 64, size=size, unpacked=unpacked)
        for name, size, unpacked in layers
    ]
    return Image(
        variant="cpu",
        reference="torchkiln:cpu",
        digest="0" * 64,
        config="0" * 64,
        layout=Path(),
        layers=tuple(made),
        environment={},
    )


def test_each_layer_has_a_bar_as_long_as_its_share_of_the_largest() -> None:
    root = ET.fromstring(  # noqa: S314 - our own picture
        layers_svg(image(("torch-2.0.1", 50, 100), ("wheels", 25, 50)))
    )
    widths = [int(bar.get("width", "")) for bar in root.iter(f"{SVG}rect")]

    assert [380, 190, 190, 95] == widths


def test_names_are_escaped() -> None:
    assert "a&amp;b" in layers_svg(image(("a&b", 1, 1)))
