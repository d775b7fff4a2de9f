"""The Mann-Kendall test: whether a series falls, and how sure that is.

It is distribution-free: it looks only at the sign of each difference between a later and an earlier
value (Mann, Econometrica 13, 1945; Kendall, Rank Correlation Methods, 1975). Like every trend test
it takes the values to be independent. Losses on data that was trained on are not: they fall on
labels without any meaning, too. `training.py` says which series is tested here, and why.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALPHA: Final = 0.001
"""One run in a thousand without a trend passes for one that learns."""

SHORTEST: Final = 10
"""From this length on, the normal approximation of the statistic holds (Kendall, 1975)."""


@dataclass(frozen=True, kw_only=True)
class Trend:
    """The test's outcome: `p` is the chance of a fall this steady in a series without trend.

    `s` counts the rising pairs less the falling ones, `tau` is `s` over all pairs (-1 to 1), and
    `z` is `s` in standard deviations.
    """

    s: int
    tau: float
    z: float
    p: float

    @property
    def confidence(self) -> float:
        """Return how sure it is that the series falls, from 0 to 1."""
        return 1 - self.p

    @property
    def falling(self) -> bool:
        """Return the verdict, at the level `ALPHA`."""
        return self.p < ALPHA

    def __str__(self) -> str:
        return f"tau {self.tau:+.2f}, p {self.p:.2g}"


def mann_kendall(series: Sequence[float]) -> Trend:
    """Test `series` for a fall, one-sided; raise `ValueError` if it is short or not finite."""
    n = len(series)
    if n < SHORTEST:
        message = f"the trend test needs {SHORTEST} values or more, not {n}"
        raise ValueError(message)
    if not all(map(math.isfinite, series)):
        message = "the series holds a value that is not finite"
        raise ValueError(message)
    s = sum((later > earlier) - (later < earlier) for earlier, later in combinations(series, 2))
    deviation = math.sqrt(_variance(n, Counter(series).values()))
    if not deviation:
        return Trend(s=0, tau=0.0, z=0.0, p=1.0)
    # `s` moves in steps of 2: the continuity correction of the lower tail, P(S <= s), is 1.
    z = (s + 1) / deviation
    return Trend(s=s, tau=s / math.comb(n, 2), z=z, p=_normal_below(z))


def _variance(n: int, ties: Iterable[int]) -> float:
    """Return the variance of the statistic without trend; `ties` are the sizes of equal groups."""
    return (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18


def _normal_below(z: float) -> float:
    """Return the chance that a standard normal value lies below `z`."""
    return math.erfc(-z / math.sqrt(2)) / 2
