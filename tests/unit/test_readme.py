from __future__ import annotations

import re
from pathlib import Path

from torchkiln import catalog

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_variants_is_the_catalogs() -> None:
    found = re.findall(
        r"^\| `(\S+)` \| `(\S+ ?\S*)` \| (\S*) \| ?(\S*) \| (\S+) ", README, re.MULTILINE
    )
    listed = catalog.load(ROOT / "images/variants.yaml")

    assert [
        (variant.id, variant.flag, variant.torch, variant.cuda or "", listed.base.python)
        for variant in listed.variants
    ] == found


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)

    assert pictures
    assert [] == [name for name in pictures if not (ROOT / name).is_file()]
