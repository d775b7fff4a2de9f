"""Check that weights survive being saved and loaded."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from suite import check, failed, passed
from training import FEATURES, guide_model

if TYPE_CHECKING:
    from image import Image
    from suite import Outcome


@check("save-and-load")
def save_and_load(_: Image) -> Outcome:
    """Save the model's weights and load them, weights only, into a model that had others."""
    saved, loaded = guide_model(seed=1), guide_model(seed=2)
    inputs = torch.ones(1, FEATURES)
    if torch.equal(saved(inputs), loaded(inputs)):
        return failed("no control", "two models from different seeds gave the same output")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pt")
        torch.save(saved.state_dict(), path)
        with warnings.catch_warnings():
            # torch 2.0 warns of a deprecation in its own `load`.
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            loaded.load_state_dict(torch.load(path, weights_only=True))
        size = path.stat().st_size
    if not torch.equal(saved(inputs), loaded(inputs)):
        return failed(f"{size} bytes", "the model with the loaded weights gave another output")
    return passed(f"{size} bytes")
