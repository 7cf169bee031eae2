"""When a condition on a metric of a run is true, and when it fires."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.domain.metric_watch import Aggregate, Change, Direction, MetricWatch, Threshold, ZScore, evaluate

BELOW = Threshold((("lt", 0.2),))
NAN, INF = math.nan, math.inf


def watch(condition, *, window=1, aggregate="avg"):
    return MetricWatch("loss", condition, Aggregate(aggregate), window)


def change(by, direction="any", *, relative=False, prior=1):
    return Change(by, relative, Direction(direction), prior)


def is_true(watched, points):
    return watched.holds(watched.values(points))


@pytest.mark.parametrize(
    ("condition", "window", "aggregate", "points", "expected"),
    [
        pytest.param(BELOW, 1, "avg", [0.1], True, id="the newest point"),
        pytest.param(BELOW, 1, "avg", [0.1, 0.2], False, id="only the newest point"),
        pytest.param(BELOW, 3, "avg", [0.1, 0.1], False, id="fewer points than the window"),
        pytest.param(BELOW, 3, "avg", [9.0, 0.1, 0.1, 0.1], True, id="only the window"),
        pytest.param(BELOW, 2, "max", [0.1, 0.3], False, id="max"),
        pytest.param(BELOW, 2, "min", [0.1, 0.3], True, id="min"),
        pytest.param(BELOW, 2, "last", [0.3, 0.1], True, id="last"),
        pytest.param(Threshold((("gte", 0.2), ("lt", 0.5))), 1, "avg", [0.2], True, id="between two limits"),
        pytest.param(Threshold((("gte", 0.2), ("lt", 0.5))), 1, "avg", [0.5], False, id="outside of two limits"),
        pytest.param(Threshold((("ne", 0.2),)), 1, "avg", [NAN], False, id="NaN is not different"),
        pytest.param(Threshold((("gt", 0.2),)), 1, "avg", [INF], True, id="infinity is larger"),
        pytest.param(Threshold((("gt", 0.2),)), 2, "max", [1.0, NAN], False, id="the maximum with NaN"),
        pytest.param(Threshold((("gt", 0.2),)), 2, "avg", [INF, -INF], False, id="infinities that cancel each other"),
        pytest.param(change(0.1, "down", relative=True), 1, "avg", [0.5, 0.45], True, id="exactly 10 % less"),
        pytest.param(change(0.1, "up", relative=True), 1, "avg", [0.5, 0.45], False, id="the other direction"),
        pytest.param(change(0.1, relative=True), 1, "avg", [-1.0, -1.2], True, id="a part of a negative value"),
        pytest.param(change(0.1, relative=True), 1, "avg", [0.0, 0.001], True, id="any part of zero"),
        pytest.param(change(0.1, relative=True), 1, "avg", [0.0, 0.0], False, id="no change of zero"),
        pytest.param(change(2.0, prior=2), 2, "avg", [1.0, 1.0, 3.0, 3.0], True, id="two windows"),
        pytest.param(change(2.0, prior=3), 2, "avg", [1.0, 1.0, 3.0, 3.0], False, id="a prior window that is not full"),
        pytest.param(ZScore(3, Direction.ANY, 30), 1, "avg", [1.0] * 9 + [9.0], False, id="nine points before"),
        pytest.param(ZScore(3, Direction.ANY, 30), 1, "avg", [1.0] * 10 + [9.0], True, id="a constant that changes"),
        pytest.param(ZScore(3, Direction.ANY, 30), 1, "avg", [1.0] * 11, False, id="a constant"),
        pytest.param(ZScore(3, Direction.UP, 30), 1, "avg", [1.0, 2.0] * 10 + [-9.0], False, id="it fell"),
        pytest.param(ZScore(3, Direction.ANY, 30), 1, "avg", [1.0] * 10 + [NAN, 9.0], False, id="NaN before"),
    ],
)
def test_a_condition_looks_at_the_newest_points(condition, window, aggregate, points, expected):
    """While there are too few points, or where a number is missing, it is false."""
    assert is_true(watch(condition, window=window, aggregate=aggregate), points) is expected


@given(st.lists(st.floats(-1e6, 1e6), min_size=11, max_size=45), st.floats(0.5, 5))
def test_a_z_score_counts_deviations_from_the_mean_before(points, above):
    """The deviation is that of the whole prior window."""
    *before, now = points
    prior = before[-30:]
    distance, deviation = abs(now - fmean(prior)), pstdev(prior)
    if not math.isclose(distance, above * deviation, rel_tol=1e-6, abs_tol=1e-6):
        assert is_true(watch(ZScore(above, Direction.ANY, 30)), points) is (distance > above * deviation)


def test_it_fires_when_it_becomes_true():
    """It fires again only after it has been false."""
    result = evaluate(watch(BELOW), [], [0.5, 0.1, 0.1, 0.3, 0.1], was_true=False)

    assert [firing.index for firing in result.firings] == [1, 4]
    assert result.is_true


def test_a_condition_that_stays_true_does_not_fire():
    """What was true before the new points has fired already."""
    result = evaluate(watch(BELOW), [0.1], [0.1, 0.1], was_true=True)

    assert result.firings == ()
    assert result.is_true


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
    st.sampled_from(
        [
            watch(Threshold((("gt", 0.6),)), window=3),
            watch(change(0.2, "up", prior=2), window=2),
            watch(ZScore(1.5, Direction.ANY, 12)),
        ]
    ),
)
def test_it_does_not_matter_how_points_are_grouped_into_requests(points, cuts, watched):
    """A condition is evaluated after each point, so the same points fire the same number of times."""
    at_once = evaluate(watched, [], points, was_true=False)

    state, fired = False, []
    bounds = [0, *sorted(min(cut, len(points)) for cut in cuts), len(points)]
    for start, end in pairwise(bounds):
        part = evaluate(watched, points[max(0, start - watched.points) : start], points[start:end], was_true=state)
        state = part.is_true
        fired += [start + firing.index for firing in part.firings]

    assert fired == [firing.index for firing in at_once.firings]
    assert state is at_once.is_true


def test_equal_watches_have_equal_keys():
    """An event names its condition by the key, so every difference counts."""
    watches = [
        watch(BELOW),
        watch(BELOW, window=2),
        watch(BELOW, window=2, aggregate="max"),
        watch(Threshold((("lte", 0.2),))),
        watch(change(0.1)),
        watch(change(0.1, relative=True)),
        watch(change(0.1, "up")),
        watch(change(0.1, prior=2)),
        watch(ZScore(3, Direction.ANY, 30)),
        watch(ZScore(3, Direction.ANY, 31)),
        MetricWatch("accuracy", BELOW),
    ]

    assert len({watched.key for watched in watches}) == len(watches)
    assert watch(BELOW).key == watch(Threshold((("lt", 0.2),))).key
