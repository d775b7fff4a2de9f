import math
import random
from itertools import permutations
from statistics import pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trend import ALPHA, _variance, mann_kendall

LENGTH = 10


def exact_chances(n: int) -> dict[int, float]:
    """Return P(S <= s) without trend, for each s, from the counts of permutations by inversions.

    Knuth, The Art of Computer Programming 3, section 5.1.1: the n-th item adds 0 to n-1 inversions.
    """
    counts = [1]
    for k in range(2, n + 1):
        longer = [0] * (len(counts) + k - 1)
        for inversions, count in enumerate(counts):
            for added in range(k):
                longer[inversions + added] += count
        counts = longer
    pairs = math.comb(n, 2)
    return {
        pairs - 2 * inversions: sum(counts[inversions:]) / math.factorial(n)
        for inversions in range(pairs + 1)
    }


def series_with(s: int, n: int) -> list[int]:
    """Return a permutation of n numbers whose statistic is `s`, by its inversion table."""
    inversions = (math.comb(n, 2) - s) // 2
    series: list[int] = []
    for value in range(n):
        added = min(inversions, value)
        series.insert(len(series) - added, value)
        inversions -= added
    return series


@pytest.mark.parametrize("s", [-45, -29, -21, -13, -1, 1, 13, 45])
def test_p_agrees_with_the_exact_distribution(s: int) -> None:
    """At the shortest length that is allowed, the normal approximation is off by under 0.005."""
    trend = mann_kendall(series_with(s, LENGTH))

    assert s == trend.s
    assert trend.p == pytest.approx(exact_chances(LENGTH)[s], abs=0.005)


def test_the_exact_distribution_is_the_published_one() -> None:
    """Kendall's table (1975, appendix 1) gives P(S >= 21) = 0.036 for 10 values without ties."""
    assert exact_chances(LENGTH)[-21] == pytest.approx(0.036, abs=0.0005)


@pytest.mark.parametrize("series", [(1, 2, 3, 4, 5, 6), (1, 1, 2, 3, 3, 3), (1, 1, 2, 2, 3, 3)])
def test_variance_is_that_over_all_orders_ties_included(series: tuple[int, ...]) -> None:
    def statistic(order: tuple[int, ...]) -> int:
        pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
        return sum((b > a) - (b < a) for a, b in pairs)

    expected = pvariance([statistic(order) for order in permutations(series)])
    ties = [series.count(value) for value in set(series)]

    assert _variance(6, ties) == pytest.approx(expected)


def test_a_steady_fall_is_falling() -> None:
    trend = mann_kendall([1 / (epoch + 1) for epoch in range(100)])

    assert trend.falling
    assert trend.tau == -1
    assert trend.confidence > 1 - ALPHA


def test_a_steady_rise_is_not_falling() -> None:
    trend = mann_kendall(range(100))

    assert not trend.falling
    assert trend.tau == 1


def test_a_constant_series_is_not_falling() -> None:
    trend = mann_kendall([0.7] * 100)

    assert not trend.falling
    assert trend.p == 1


def test_noise_is_taken_for_a_fall_as_often_as_the_level_says() -> None:
    """Of 2000 series without trend, 5 % have p below 0.05; three standard deviations are 1.5 %."""
    noise = random.Random(0)  # noqa: S311 - noise, no secret
    series = [[noise.gauss(0, 1) for _ in range(30)] for _ in range(2000)]
    alarms = sum(mann_kendall(values).p < 0.05 for values in series) / len(series)

    assert alarms == pytest.approx(0.05, abs=0.015)


@given(st.lists(st.integers(-1000, 1000), min_size=LENGTH, max_size=40))
def test_only_the_order_of_the_values_counts(series: list[int]) -> None:
    assert mann_kendall(series) == mann_kendall([value**3 + 7 for value in series])


@given(st.lists(st.integers(-1000, 1000), min_size=LENGTH, max_size=40))
def test_the_reversed_series_has_the_opposite_trend(series: list[int]) -> None:
    assert mann_kendall(series).s == -mann_kendall(series[::-1]).s


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    """A loss of NaN compares as neither larger nor smaller, and would count as no trend at all."""
    with pytest.raises(ValueError, match="not finite"):
        mann_kendall([*range(20), value])


def test_a_series_too_short_for_the_approximation_is_refused() -> None:
    with pytest.raises(ValueError, match="10 values or more, not 9"):
        mann_kendall(range(9))
