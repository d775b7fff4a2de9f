"""The loss curve: what the model learnt, beside the control that it cannot learn."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Final

import matplotlib as mpl

# No display, no toolkit: must be chosen before pyplot is imported.
mpl.use("Agg")

import matplotlib.pyplot as plt
from report import headline
from suite import failed, passed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from suite import Curve, Outcome

# Two colours of the Okabe-Ito palette, which colour-blind readers tell apart; and two line styles.
STYLE: Final = {
    "learnable": {"color": "#0072B2", "linestyle": "-", "label": "labels that can be learnt"},
    "random": {"color": "#D55E00", "linestyle": "--", "label": "random labels (control)"},
}
QUIET: Final = "#666666"
SIZE_IN: Final = (9.6, 4.0)
DPI: Final = 150


def loss_curve(variant: str, curves: Mapping[str, Curve], path: Path) -> Outcome:
    """Draw the training curves to `path` and see that it is a PNG of the size asked for."""
    if set(curves) != set(STYLE):
        return failed("not drawn", "the training checks left no curves")
    draw(curves, headline(variant, curves), path)
    width, height = (round(inches * DPI) for inches in SIZE_IN)
    # The signature and the header chunk, which starts with the size (PNG, 5.2 and 11.2.2).
    start = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">2I", width, height)
    if not path.read_bytes().startswith(start):
        return failed("not a PNG", f"matplotlib wrote no PNG of {width} x {height} pixels: {path}")
    return passed(f"{width} x {height} pixels")


def draw(curves: Mapping[str, Curve], title: str, path: Path) -> None:
    """Write the picture of `curves` to `path`, as PNG."""
    settings = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(settings):
        figure, (left, right) = plt.subplots(1, 2, figsize=SIZE_IN, layout="constrained")
        figure.suptitle(title, fontsize=12, fontweight="bold")
        for name, curve in curves.items():
            epochs = range(1, len(curve.losses) + 1)
            left.plot(epochs, curve.losses, **STYLE[name])
            right.plot(epochs, curve.excess, **{**STYLE[name], "label": str(curve.trend)})
        _level(left, math.log(2), "chance (ln 2)")
        _level(right, 0, "chance")
        left.set(xlabel="epoch", ylabel="binary cross-entropy", title="Loss on unseen batches")
        right.set(xlabel="epoch", ylabel="loss less chance", title="Excess loss (Mann-Kendall)")
        for axes in (left, right):
            axes.margins(x=0.01)
            axes.grid(axis="y", alpha=0.25)
            axes.legend(frameon=False, loc="lower left")
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
        plt.close(figure)


def _level(axes: Axes, height: float, name: str) -> None:
    """Draw the level of one who knows nothing, with its name above its right end."""
    axes.axhline(height, color=QUIET, linewidth=0.8, zorder=0)
    place = {"xy": (1, height), "xycoords": ("axes fraction", "data")}
    offset = {"xytext": (0, 4), "textcoords": "offset points"}
    axes.annotate(name, **place, **offset, color=QUIET, fontsize=9, ha="right", va="bottom")
