"""What images share: bytes of all together, and bytes to pull for each step from one to another.

    ./kiln build --all --json >all.json
    python -m benchmarks.sharing all.json

keeps the images' layers in `sharing.json` and writes the table into `README.md` of this folder.
Several files are read as one, for a disk that does not hold all images at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final, TypeAlias

from torchkiln.files import write_atomic

Layers: TypeAlias = dict[str, int]
"""The compressed sizes in bytes of an image's layers, by digest."""

HERE: Final = Path(__file__).parent
KEPT: Final = HERE / "sharing.json"
_MARKS: Final = ("<!-- python -m benchmarks.sharing writes from here -->\n", "<!-- to here -->")


def read(paths: list[Path]) -> dict[str, Layers]:
    """Return the layers of each image in files that `build --all --json` wrote."""
    builds = [one["build"] for path in paths for one in json.loads(path.read_text("utf-8"))]
    return {
        one["variant"]: {layer["digest"]: layer["size"] for layer in one["layers"]}
        for one in builds
        if one
    }


def to_pull(have: Layers, want: Layers) -> int:
    """Return the bytes that a machine with the image `have` pulls for `want`."""
    return sum(size for digest, size in want.items() if digest not in have)


def together(images: dict[str, Layers]) -> int:
    """Return the bytes of all images in one registry, where a layer lies once."""
    return sum({digest: size for one in images.values() for digest, size in one.items()}.values())


def table(images: dict[str, Layers]) -> str:
    """Return the sum, what is shared of it, and a row of pulls for each image that is there."""
    apart = sum(sum(one.values()) for one in images.values())
    whole = together(images)
    sums = f"{_megabytes(apart)} each by itself, {_megabytes(whole)} together"
    lines = [
        f"{len(images)} images have {sums}, {100 * (apart - whole) / apart:.1f} % less.",
        "MB to pull for the image at the head of a column, where that at the left is there:",
        "",
        _line(["", *(f"`{name}`" for name in images)]),
        _line(["---"] * (len(images) + 1)),
        _line(["nothing", *(_number(sum(one.values())) for one in images.values())]),
    ]
    for name, have in images.items():
        cells = [_number(to_pull(have, want)) for want in images.values()]
        lines.append(_line([f"`{name}`", *cells]))
    return "\n".join(lines) + "\n"


def insert(text: str, part: str, marks: tuple[str, str] = _MARKS) -> str:
    """Return the README with `part` between its marks."""
    begin, end = marks
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{part}\n{end}{tail}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(size: int) -> str:
    return f"{size / 1e6:,.0f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def main(paths: list[Path]) -> None:
    """Keep the layers and write the table."""
    images = read(paths)
    readme = HERE / "README.md"
    write_atomic(KEPT, json.dumps(images, indent=1) + "\n")
    write_atomic(readme, insert(readme.read_text("utf-8"), table(images)))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
