"""What the layers are, read from their tars; the contract's points have more rules for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from torchkiln import layer_rules
from torchkiln.layer import MTIME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torchkiln.listing import ImageListing


@pytest.mark.parametrize(
    "rule",
    [
        layer_rules.caches,
        layer_rules.only_adds,
        layer_rules.order,
        layer_rules.set_id,
    ],
    ids=lambda rule: rule.__name__,
)
def test_layers(own_layers: ImageListing, rule: Callable[[ImageListing], list[str]]) -> None:
    assert rule(own_layers) == []


def test_no_clock_is_in_the_layers(own_layers: ImageListing) -> None:
    assert layer_rules.clocks(own_layers, MTIME) == []


def test_docker_finds_the_same_layers(
    own_layers: ImageListing, pytestconfig: pytest.Config
) -> None:
    layout: Path = pytestconfig.getoption("--layout")
    entries = json.loads((layout / "manifest.json").read_bytes())

    paths = [f"blobs/sha256/{layer.digest}" for layer in own_layers.layers]
    assert [entry["Layers"] for entry in entries] == [paths]
