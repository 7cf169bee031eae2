"""
Means, deviations, minima and maxima of windows that slide over points, at a cost that does not depend on their size.

Sums are exact, so that neither the size of a window nor the points that came with others in a request change a result.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate

FEW_WINDOWS = 10  #: up to here, it is faster to look at each window by itself

_MANTISSA_BITS = 53
_MAX_EXPONENT = 1_023
_ROOT_BITS = 64  # of the square root, so that it is more precise than a float


class WindowSums:
    """
    Means and deviations of windows.

    Finite points are integers times a common power of two, and the sums before each point are kept. The sum of a
    window is the difference of two of them. For a few windows, adding their points up is faster, and as exact.

    Args:
        points: All points; a window is a range of them.
        windows: How many windows will be asked for.
    """

    def __init__(self, points: Sequence[float], *, windows: int) -> None:
        self.points = points
        self._are_few = windows <= FEW_WINDOWS

    def mean(self, start: int, end: int) -> float:
        """Return the mean of the points from `start` to before `end`, of which there is at least one."""
        if self._are_few:
            try:
                return math.fsum(self.points[start:end]) / (end - start)
            except (OverflowError, ValueError):  # the sum is too large, or infinities cancel each other
                pass
        if self._special is not None and (found := self._special.mean(start, end)) is not None:
            return found
        integers, unit = self._sums
        total = integers[end] - integers[start]
        try:
            return total / unit / (end - start)
        except OverflowError:
            return total / (unit * (end - start))

    def deviation(self, start: int, end: int) -> float:
        """Return the standard deviation of these points, or NaN if one is not finite."""
        if self._special is not None and self._special.mean(start, end) is not None:
            return math.nan
        if self._are_few:
            integers, unit = _to_integers(self.points[start:end])
            total, squares = sum(integers), sum(map(operator.mul, integers, integers))
        else:
            sums, unit = self._sums
            total, squares = sums[end] - sums[start], self._squares[end] - self._squares[start]
        squared = (end - start) * squares - total * total
        return math.isqrt(squared << (2 * _ROOT_BITS)) / ((end - start) * unit << _ROOT_BITS)

    @cached_property
    def _special(self) -> _Special | None:
        return None if all(map(math.isfinite, self.points)) else _Special(self.points)

    @cached_property
    def _integers(self) -> tuple[list[int], int]:
        if self._special is None:
            return _to_integers(self.points)
        return _to_integers([point if math.isfinite(point) else 0.0 for point in self.points])

    @cached_property
    def _sums(self) -> tuple[list[int], int]:
        integers, unit = self._integers
        return _sums_before(integers), unit

    @cached_property
    def _squares(self) -> list[int]:
        integers, _ = self._integers
        return _sums_before(map(operator.mul, integers, integers))


class _Special:
    """Counts NaN and infinities before each point."""

    def __init__(self, points: Sequence[float]) -> None:
        self._nan = _sums_before(map(math.isnan, points))
        self._up = _sums_before(point == math.inf for point in points)
        self._down = _sums_before(point == -math.inf for point in points)

    def mean(self, start: int, end: int) -> float | None:
        """Return the mean of a window that is not finite, or None."""
        up, down = self._up[end] > self._up[start], self._down[end] > self._down[start]
        if self._nan[end] > self._nan[start] or (up and down):
            return math.nan
        return math.inf if up else -math.inf if down else None


def extreme(points: Sequence[float], *, is_minimum: bool) -> float:
    """Return the minimum or maximum of points; NaN if one of them is, because their order would decide."""
    if any(map(math.isnan, points)):
        return math.nan
    return min(points) if is_minimum else max(points)


def sliding_extremes(points: Sequence[float], size: int, *, is_minimum: bool) -> list[float]:
    """Return the minimum or maximum of the up to `size` points that end with each point; NaN where one of them is."""
    is_hidden: Callable[[float, float], bool] = operator.ge if is_minimum else operator.le
    candidates: deque[int] = deque()  # indexes of points that are, or will be, the extreme of a window
    found, last_nan = [], -size
    for index, point in enumerate(points):
        if math.isnan(point):
            last_nan = index
            candidates.clear()
        else:
            while candidates and is_hidden(points[candidates[-1]], point):
                candidates.pop()
            candidates.append(index)
            if candidates[0] <= index - size:
                candidates.popleft()
        found.append(math.nan if index - last_nan < size else points[candidates[0]])
    return found


def _to_integers(points: Sequence[float]) -> tuple[list[int], int]:
    """Return integers, and the power of two by which they were multiplied."""
    exponents = [exponent for fraction, exponent in map(math.frexp, points) if fraction]
    shift = max(0, _MANTISSA_BITS - min(exponents, default=_MANTISSA_BITS))
    if shift + max(exponents, default=0) <= _MAX_EXPONENT and shift <= _MAX_EXPONENT:
        scale = 2.0**shift
        return [int(point * scale) for point in points], 1 << shift
    ratios = [point.as_integer_ratio() for point in points]
    unit = max(denominator for _, denominator in ratios)
    return [numerator * (unit // denominator) for numerator, denominator in ratios], unit


def _sums_before(numbers: Iterable[int]) -> list[int]:
    return list(accumulate(numbers, initial=0))
