"""Checks of torch's forward and backward passes against closed forms in NumPy.

Computed in float32, as people do. The tolerance is relative to the largest expected entry: some 10
roundings of 6e-8 each. The control is a closed form with a fault that people make; it must be
told from the right one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import closed_forms
import numpy as np
import torch
from suite import check, failed, passed
from torch import nn
from training import FEATURES, guide_model

if TYPE_CHECKING:
    from closed_forms import Array
    from image import Image
    from suite import Outcome
    from torch import Tensor

TOLERANCE: Final = 1e-6
ROWS: Final = 32
CLASSES: Final = 5


def distance(actual: Tensor, expected: Array) -> float:
    """Return the largest difference, relative to the largest expected entry."""
    difference = np.abs(float64(actual) - expected)
    return float(difference.max() / np.abs(expected).max())


def judge(distances: dict[str, float]) -> Outcome:
    """Return the verdict on the distances between torch and the closed forms, by name."""
    worst = max(distances, key=distances.__getitem__)
    value = f"off by {distances[worst]:.1e}"
    # Written so that a distance that is not a number fails.
    wrong = [name for name, off in distances.items() if not off <= TOLERANCE]
    if wrong:
        return failed(value, f"above {TOLERANCE}: {', '.join(wrong)}")
    return passed(value)


def sample(*shape: int) -> Tensor:
    """Return normal values of `shape`, the same on each call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def float64(tensor: Tensor) -> Array:
    """Return a NumPy copy that does not depend on torch's own bridge, which is checked apart."""
    return np.asarray(tensor.detach().tolist(), dtype=np.float64)


def compare_loss(
    criterion: nn.Module, outputs: Tensor, targets: Tensor, expected: tuple[Array, Array]
) -> Outcome:
    """Compare a criterion's value and its gradient by `outputs` with the closed form's."""
    leaf = outputs.clone().requires_grad_()
    loss = criterion(leaf, targets)
    loss.backward()
    return judge(
        {"value": distance(loss, expected[0]), "gradient": distance(leaf.grad, expected[1])}
    )


@check("loss-mean-squared-error")
def loss_mean_squared_error(_: Image) -> Outcome:
    """Compare `nn.MSELoss`."""
    outputs, targets = sample(ROWS, 1), sample(ROWS, 1).flip(0)
    expected = closed_forms.mean_squared_error(float64(outputs), float64(targets))
    return compare_loss(nn.MSELoss(), outputs, targets, expected)


@check("loss-binary-cross-entropy")
def loss_binary_cross_entropy(_: Image) -> Outcome:
    """Compare `nn.BCELoss`."""
    outputs, targets = sample(ROWS, 1).sigmoid(), (sample(ROWS, 1).flip(0) > 0).float()
    expected = closed_forms.binary_cross_entropy(float64(outputs), float64(targets))
    return compare_loss(nn.BCELoss(), outputs, targets, expected)


@check("loss-cross-entropy")
def loss_cross_entropy(_: Image) -> Outcome:
    """Compare `nn.CrossEntropyLoss`."""
    logits, classes = sample(ROWS, CLASSES), torch.arange(ROWS) % CLASSES
    expected = closed_forms.cross_entropy(float64(logits), np.asarray(classes.tolist()))
    return compare_loss(nn.CrossEntropyLoss(), logits, classes, expected)


def model_case() -> tuple[nn.Sequential, Tensor, Tensor, dict[str, Array]]:
    """Return the guide's model, inputs, targets, and the model's weights for NumPy."""
    model = guide_model(seed=1)
    inputs, targets = sample(ROWS, FEATURES), (sample(ROWS, 1) > 0).float()
    return model, inputs, targets, {n: float64(w) for n, w in model.state_dict().items()}


@check("model-forward")
def model_forward(_: Image) -> Outcome:
    """Compare the outputs of the guide's model."""
    model, inputs, _targets, weights = model_case()
    _hidden, outputs = closed_forms.forward(float64(inputs), weights)
    return judge({"outputs": distance(model(inputs), outputs)})


@check("model-backward")
def model_backward(_: Image) -> Outcome:
    """Compare the gradient by each weight of the guide's model."""
    model, inputs, targets, weights = model_case()
    nn.BCELoss()(model(inputs), targets).backward()
    expected = closed_forms.backward(float64(inputs), float64(targets), weights)
    named = model.named_parameters()
    return judge({name: distance(weight.grad, expected[name]) for name, weight in named})


@check("model-backward-control")
def model_backward_control(_: Image) -> Outcome:
    """Refuse gradients that are 1/1000 too large, as `judge` must for the checks above to count."""
    model, inputs, targets, weights = model_case()
    nn.BCELoss()(model(inputs), targets).backward()
    right = closed_forms.backward(float64(inputs), float64(targets), weights)
    named = model.named_parameters()
    outcome = judge({name: distance(weight.grad, right[name] * 1.001) for name, weight in named})
    if outcome.verdict != "failed":
        return failed(outcome.value, "gradients that are 1/1000 too large were not told from right")
    return passed(f"refused: {outcome.value}")


@check("numpy-round-trip")
def numpy_round_trip(_: Image) -> Outcome:
    """Take a tensor to NumPy and back, over the same memory.

    Only use shows that torch and NumPy do not fit: torch before 2.3 imports beside NumPy 2 and
    warns, then has no `.numpy()` (https://github.com/pytorch/pytorch/issues/107302).
    """
    tensor = torch.arange(6.0)
    array = tensor.numpy()
    back = torch.from_numpy(array)
    array += 1
    if array.tolist() != [1, 2, 3, 4, 5, 6] or back.tolist() != tensor.tolist() or back[0] != 1:
        return failed(f"NumPy {np.__version__}", "the array and the tensors hold different values")
    return passed(f"NumPy {np.__version__}")
