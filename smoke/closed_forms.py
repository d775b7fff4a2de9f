"""Losses, and the guide's model, forward and backward, written out in NumPy.

Each function returns the value and its gradients. Everything is computed in float64, whatever
torch computes in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]


def mean_squared_error(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Return mean (o - t)^2 and its gradient 2 (o - t) / n."""
    difference = outputs - targets
    return np.mean(difference**2), 2 * difference / outputs.size


def binary_cross_entropy(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Return mean -(t ln p + (1 - t) ln(1 - p)) and its gradient (p - t) / (p (1 - p) n)."""
    value = -np.mean(targets * np.log(outputs) + (1 - targets) * np.log(1 - outputs))
    return value, (outputs - targets) / (outputs * (1 - outputs) * outputs.size)


def cross_entropy(logits: Array, classes: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return mean -ln softmax(z)[c] for logits (n, k), classes (n,), and (softmax - onehot) / n."""
    rows = np.arange(len(logits))
    # Shifted by the largest logit, so that exp cannot overflow; the softmax stays the same.
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = exponents / exponents.sum(axis=1, keepdims=True)
    onehot = np.zeros_like(logits)
    onehot[rows, classes] = 1
    return -np.mean(np.log(softmax[rows, classes])), (softmax - onehot) / len(logits)


def forward(inputs: Array, weights: dict[str, Array]) -> tuple[Array, Array]:
    """Return the hidden values relu(x W1' + b1) and the outputs sigmoid(h W2' + b2).

    `weights` has torch's names for the layers 0 and 2 of the sequence, shapes (out, in) and (out,).
    """
    hidden = np.maximum(inputs @ weights["0.weight"].T + weights["0.bias"], 0)
    logits = hidden @ weights["2.weight"].T + weights["2.bias"]
    return hidden, 1 / (1 + np.exp(-logits))


def backward(inputs: Array, targets: Array, weights: dict[str, Array]) -> dict[str, Array]:
    """Return the gradient of the mean binary cross-entropy by each weight, by the chain rule."""
    hidden, outputs = forward(inputs, weights)
    # Through the sigmoid, the loss's gradient becomes (p - t) / n.
    at_logits = (outputs - targets) / len(inputs)
    at_hidden = (at_logits @ weights["2.weight"]) * (hidden > 0)
    return {
        "0.weight": at_hidden.T @ inputs,
        "0.bias": at_hidden.sum(axis=0),
        "2.weight": at_logits.T @ hidden,
        "2.bias": at_logits.sum(axis=0),
    }
