"""Windows that slide over points have the results that each window has by itself."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.domain.sliding_windows import FEW_WINDOWS, WindowSums, extreme, sliding_extremes

MANY = FEW_WINDOWS + 1


def is_same(left, right):
    return left == right or (math.isnan(left) and math.isnan(right))


@given(st.lists(st.floats(), min_size=1, max_size=30), st.data())
def test_few_and_many_windows_have_equal_means_and_deviations(points, data):
    """It does not matter how many points a request has."""
    end = data.draw(st.integers(1, len(points)))
    start = data.draw(st.integers(0, end - 1))
    few, many = WindowSums(points, windows=1), WindowSums(points, windows=MANY)

    assert is_same(few.mean(start, end), many.mean(start, end))
    assert is_same(few.deviation(start, end), many.deviation(start, end))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_mean_is_finite_and_a_deviation_is_exact(points):
    """Sums that no float can hold do not disturb."""
    sums = WindowSums(points, windows=MANY)
    numbers = [Fraction(point) for point in points]
    mean = sum(numbers) / len(numbers)
    variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)

    assert sums.mean(0, len(points)) == pytest.approx(float(mean), rel=1e-15, abs=5e-324)
    assert abs(Fraction(sums.deviation(0, len(points))) ** 2 - variance) <= variance / 10**15 + Fraction(5e-324) ** 2


@given(st.lists(st.floats(), min_size=1, max_size=30), st.integers(1, 8), st.booleans())
def test_sliding_extremes_are_those_of_each_window(points, size, is_minimum):
    """NaN in a window hides the rest of it."""
    found = sliding_extremes(points, size, is_minimum=is_minimum)
    each = [extreme(points[max(0, end - size) : end], is_minimum=is_minimum) for end in range(1, len(points) + 1)]

    assert all(map(is_same, found, each))
