"""Bars side by side, as an SVG that reads on light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME: Final = 260  # pixels for the names, then the panels
_PANEL: Final = 215
_BAR: Final = 140  # the longest bar; its number follows
_ROW: Final = 26
_HEAD: Final = 70
_FIRST: Final = "#de3412"
_OTHERS: Final = "#6e7781"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity: a value for each row, None where there is none."""

    title: str
    values: Sequence[float | None]


def chart(title: str, names: Sequence[str], panels: Sequence[Panel]) -> str:
    """Return a row of bars for each name, in every panel; the first row stands out."""
    width = _NAME + _PANEL * len(panels)
    height = _HEAD + _ROW * len(names) + 12
    labels = [
        f'<text x="{_NAME - 12}" y="{_HEAD + _ROW * row + 14}" text-anchor="end">{escape(name)}'
        "</text>\n"
        for row, name in enumerate(names)
    ]
    bars = [_panel(panel, _NAME + _PANEL * column) for column, panel in enumerate(panels)]
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" \
viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13" fill="#57606a">
<text x="16" y="26" font-size="16" font-weight="bold">{escape(title)}</text>
{"".join(labels)}{"".join(bars)}</svg>
"""


def _panel(panel: Panel, x: int) -> str:
    largest = max((value for value in panel.values if value is not None), default=0) or 1
    parts = [f'<text x="{x}" y="{_HEAD - 12}" font-weight="bold">{escape(panel.title)}</text>\n']
    for row, value in enumerate(panel.values):
        if value is None:
            continue
        y = _HEAD + _ROW * row
        length = max(1, round(_BAR * value / largest))
        parts.append(
            f'<rect x="{x}" y="{y}" width="{length}" height="18" rx="2"'
            f' fill="{_OTHERS if row else _FIRST}"/>'
            f'<text x="{x + length + 6}" y="{y + 14}">{_number(value)}</text>\n'
        )
    return "".join(parts)


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"  # noqa: PLR2004
