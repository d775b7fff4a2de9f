"""Checks that the guide's model learns what can be learnt, and only that, in the same way twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from suite import Curve, check, failed, passed
from training import SEED, train
from trend import ALPHA, mann_kendall

if TYPE_CHECKING:
    from image import Image
    from suite import Outcome
    from training import Labels, Run


def curve(labels: Labels) -> Curve:
    """Train on `labels` and test the excess loss for a fall."""
    run = train(labels)
    return Curve(losses=run.losses, excess=run.excess, trend=mann_kendall(run.excess))


def same_run(first: Run, second: Run) -> bool:
    """Return whether losses and weights are equal to the last bit."""
    return first.losses == second.losses and all(
        torch.equal(weight, second.weights[name]) for name, weight in first.weights.items()
    )


@check("training-learns")
def training_learns(_: Image) -> Outcome:
    """Demand that the loss falls on labels that follow from the inputs."""
    learnable = curve("learnable")
    curves = {"learnable": learnable}
    if not learnable.trend.falling:
        return failed(str(learnable.trend), f"the loss must fall with p below {ALPHA}", curves)
    return passed(str(learnable.trend), curves=curves)


@check("training-control")
def training_control(_: Image) -> Outcome:
    """Demand that the same test finds nothing on labels that are coins."""
    random = curve("random")
    curves = {"random": random}
    if random.trend.falling:
        return failed(str(random.trend), "the trend test took random labels for learnt", curves)
    return passed(str(random.trend), curves=curves)


@check("training-bit-equal")
def training_bit_equal(_: Image) -> Outcome:
    """Train twice from one seed, and once from another, which must differ."""
    first, second, other = train("learnable"), train("learnable"), train("learnable", SEED + 1)
    if not same_run(first, second):
        return failed("runs differ", "two runs from one seed gave different losses or weights")
    if same_run(first, other):
        return failed("seed ignored", "a run from another seed gave the same losses and weights")
    return passed(f"seed {SEED} twice")
