from __future__ import annotations

import re
from pathlib import Path

from torchkiln import catalog
from torchkiln.releases import RELEASES

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


def test_what_is_newer_than_a_variant_is_named_in_the_readme_and_in_the_catalog() -> None:
    """A variant that is not the last torch for its CUDA says which one is."""
    path = ROOT / "images/variants.yaml"
    newest = {cuda: one.torch for one in RELEASES.values() for cuda in one.cuda}
    behind = [one for one in catalog.load(path).variants if newest.get(one.cuda or "") != one.torch]
    newer = {one.cuda: newest[one.cuda] for one in behind if one.cuda}
    said = re.findall(r"torch: (\S+) # the PyTorch index has ([\d.]+)", path.read_text("utf-8"))

    assert newer == dict(re.findall(r"(\d+\.\d) \((\d+\.\d+\.\d)\)", README))
    assert [(one.torch, newest[one.cuda]) for one in behind if one.cuda] == said


def test_a_variant_of_the_default_index_is_its_newest_for_the_cuda() -> None:
    newest = {one.default_cuda: one.torch for one in RELEASES.values()}
    listed = catalog.load(ROOT / "images/variants.yaml").variants

    assert [] == [one.id for one in listed if not one.index and newest[one.cuda or ""] != one.torch]


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)

    assert pictures
    assert [] == [name for name in pictures if not (ROOT / name).is_file()]
