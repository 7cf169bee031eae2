"""
What an automation watches a metric of a run for: `on: {run-metric: …}`.

A condition looks at the aggregate of the last points, and at the points before them:

    … ● ● ● ● ● ● ● ● ● ● ● ●│● ● ● ● ●
             prior window    │ window     ← the newest point

While there are fewer points than the window, and for `change` fewer than both windows, a condition is false. An
aggregate or a deviation that is not a number makes it false, too.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from upshot.domain.sliding_windows import FEW_WINDOWS, WindowSums, extreme, sliding_extremes

MIN_ZSCORE_POINTS = 10  #: of the prior window; with fewer, a z-score is false


class Aggregate(StrEnum):
    """How the points of a window become one number."""

    AVG = "avg"
    MIN = "min"
    MAX = "max"
    LAST = "last"


class Direction(StrEnum):
    """Which way a metric must move."""

    UP = "up"
    DOWN = "down"
    ANY = "any"


#: By the words of `threshold`.
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
}


_SIGNS = {"lt": "<", "lte": "≤", "gt": ">", "gte": "≥", "eq": "=", "ne": "≠"}
_MOVES = {Direction.UP: "rises", Direction.DOWN: "falls", Direction.ANY: "changes"}


@dataclass(frozen=True, slots=True)
class Threshold:
    """The aggregate passes all comparisons."""

    limits: tuple[tuple[str, float], ...]  #: pairs of a word of `COMPARISONS` and a number


@dataclass(frozen=True, slots=True)
class Change:
    """The aggregate differs by at least so much from the aggregate of the prior window."""

    by: float  #: above 0
    is_relative: bool  #: `by` is a part of the absolute value before: 0.1 for `10%`
    direction: Direction
    prior_window: int  #: points


@dataclass(frozen=True, slots=True)
class ZScore:
    """The aggregate is more than so many standard deviations away from the mean of the prior window."""

    above: float  #: above 0
    direction: Direction
    prior_window: int  #: points; fewer are enough, but not fewer than `MIN_ZSCORE_POINTS`


Condition = Threshold | Change | ZScore


@dataclass(frozen=True, slots=True)
class MetricWatch:
    """What an automation watches a metric for."""

    metric: str
    condition: Condition
    aggregate: Aggregate = Aggregate.AVG
    window: int = 1  #: points

    @property
    def points(self) -> int:
        """How many of the newest points decide."""
        return self.window + (0 if isinstance(self.condition, Threshold) else self.condition.prior_window)

    @property
    def key(self) -> str:
        """16 hex digits that are equal for equal watches, to recognize one in an event."""
        return hashlib.sha256(self.describe().encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Return the condition in words: `avg of the last 5 points of val/loss is < 0.2`."""
        window = "the last point" if self.window == 1 else f"{self.aggregate} of the last {self.window} points"
        condition = self.condition
        if isinstance(condition, Threshold):
            wanted = "is " + " and ".join(f"{_SIGNS[word]} {limit!r}" for word, limit in condition.limits)
        elif isinstance(condition, Change):
            amount = f"{condition.by * 100!r} %" if condition.is_relative else repr(condition.by)
            wanted = (
                f"{_MOVES[condition.direction]} by {amount} or more against the {condition.prior_window} points before"
            )
        else:
            wanted = (
                f"{_MOVES[condition.direction]} by more than {condition.above!r} standard deviations against the "
                f"{condition.prior_window} points before"
            )
        return f"{window} of {self.metric} {wanted}"

    def values(self, points: Sequence[float]) -> WatchedValues | None:
        """
        Return the numbers that the condition looks at, or None while there are too few.

        Args:
            points: The newest points, oldest first, at least `self.points` if there are so many.
        """
        return self.values_after(points, 1)[-1] if points else None

    def values_after(self, points: Sequence[float], new: int) -> list[WatchedValues | None]:
        """Return the numbers that the condition looks at after each of the last `new` points, as `values` does."""
        points = points[-(self.points - 1 + new) :]
        ends = range(len(points) - new + 1, len(points) + 1)
        condition, window = self.condition, self.window
        sums = WindowSums(points, windows=new)
        aggregate = _sliding(self.aggregate, sums, window, ends)
        if isinstance(condition, Threshold):
            return [WatchedValues(aggregate(end)) if end >= window else None for end in ends]
        if isinstance(condition, Change):
            before = range(max(1, ends.start - window), ends.stop - window)
            prior = _sliding(self.aggregate, sums, condition.prior_window, before)
            return [WatchedValues(aggregate(end), prior(end - window)) if end >= self.points else None for end in ends]
        found: list[WatchedValues | None] = []
        for end in ends:
            start, stop = max(0, end - self.points), end - window
            if stop - start < MIN_ZSCORE_POINTS:
                found.append(None)
            else:
                found.append(WatchedValues(aggregate(end), sums.mean(start, stop), sums.deviation(start, stop)))
        return found

    def holds(self, values: WatchedValues | None) -> bool:
        """Return whether the condition is true for the numbers that `values` returned."""
        if values is None:
            return False
        if isinstance(self.condition, Threshold):
            return all(COMPARISONS[word](values.value, limit) for word, limit in self.condition.limits) and not (
                math.isnan(values.value)
            )
        if values.prior is None:
            return False
        difference = values.value - values.prior
        if isinstance(self.condition, Change):
            limit = self.condition.by * (abs(values.prior) if self.condition.is_relative else 1)
            # 0.5 → 0.45 is a change by 10 %, although the difference of the floats is a little less.
            is_reached = difference != 0 and (
                abs(difference) > limit or math.isclose(abs(difference), limit, rel_tol=1e-9)
            )
        else:
            deviation = math.nan if values.deviation is None else values.deviation
            is_reached = abs(difference) > self.condition.above * deviation
        return is_reached and _has_direction(difference, self.condition.direction)


@dataclass(frozen=True, slots=True)
class WatchedValues:
    """The numbers that a condition looks at."""

    value: float  #: the aggregate of the window
    prior: float | None = None  #: the aggregate, or the mean, of the prior window
    deviation: float | None = None  #: standard deviation of the prior window


@dataclass(frozen=True, slots=True)
class Firing:
    """A point at which a condition became true."""

    index: int  #: of the point, among the new ones
    values: WatchedValues


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What new points did to a condition."""

    is_true: bool  #: after the last new point
    firings: tuple[Firing, ...]  #: the points at which it became true


def evaluate(watch: MetricWatch, earlier: Sequence[float], new: Sequence[float], *, was_true: bool) -> Evaluation:
    """
    Evaluate a condition after each of the new points.

    Args:
        watch: The condition.
        earlier: The points before the new ones, oldest first: at least `watch.points` - 1 of them, if there are so
            many.
        new: The new points, oldest first.
        was_true: Whether the condition was true before the new points.
    """
    is_true, firings = was_true, []
    for index, values in enumerate(watch.values_after([*earlier, *new], len(new))):
        holds = watch.holds(values)
        if holds and not is_true and values is not None:
            firings.append(Firing(index, values))
        is_true = holds
    return Evaluation(is_true, tuple(firings))


def _sliding(aggregate: Aggregate, sums: WindowSums, size: int, ends: range) -> Callable[[int], float]:
    """Return a function of the index behind the last point of a window, in `ends`, which returns its aggregate."""
    points = sums.points
    if size == 1 or aggregate is Aggregate.LAST:
        return lambda end: points[end - 1]
    if aggregate is Aggregate.AVG:
        return lambda end: sums.mean(max(0, end - size), end)
    is_minimum = aggregate is Aggregate.MIN
    if len(ends) <= FEW_WINDOWS:
        return lambda end: extreme(points[max(0, end - size) : end], is_minimum=is_minimum)
    first = max(0, ends.start - size)
    extremes = sliding_extremes(points[first : ends.stop - 1], size, is_minimum=is_minimum)
    return lambda end: extremes[end - 1 - first]


def _has_direction(difference: float, direction: Direction) -> bool:
    if direction is Direction.ANY:
        return True
    return difference > 0 if direction is Direction.UP else difference < 0
