"""Filters and orders of runs in MongoDB's form."""

import json
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.errors import InvalidInput
from upshot.ports.run_history import RunCandidate
from upshot.registry.run_filters import parse_run_filter

CONFIG = {"lr": 0.1, "model": {"name": "resnet", "depth": 50}, "a.b": 1, "on": True, "none": None, "sizes": [1, 2]}
RUN = RunCandidate(
    id="run_1",
    run_id="ab12cd34",
    name="swift fox",
    job_type="training",
    state="finished",
    group=None,
    created_by="ann",
    created_at=datetime(2026, 3, 1, tzinfo=UTC),
    tags_json='["best","new"]',
    config_json=json.dumps(CONFIG, separators=(",", ":")),
    summary_json='{"acc":0.5,"loss":"NaN","note":"config"}',
)


def matches(condition):
    return parse_run_filter(json.dumps(condition), None).matches(RUN)


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"state": "finished"},
        {"name": "ab12cd34", "displayName": {"$regex": "^swift"}},
        {"username": {"$in": ["bob", "ann"]}},
        {"jobType": {"$ne": "evaluation"}},
        {"group": None},
        {"group": {"$exists": False}},
        {"tags": "best"},
        {"tags": {"$in": ["other", "new"]}},
        {"tags": {"$nin": ["other"]}},
        {"tags": ["best", "new"]},
        {"createdAt": {"$gte": "2026-03-01", "$lt": "2026-03-01T00:00:01+00:00"}},
        {"config.lr": 0.1},
        {"config.lr": {"$gt": 0, "$lte": 0.1}},
        {"config.model.depth": 50},
        {"config.model": {"name": "resnet", "depth": 50}},
        {"config.a.b": {"$eq": 1.0}},
        {"config.on": True},
        {"config.sizes": 2},
        {"config.sizes": {"$gt": 1}},
        {"config.none": None},
        {"config.missing": {"$ne": 1}},
        {"summary_metrics.acc": {"$exists": True}},
        {"$or": [{"state": "failed"}, {"summary_metrics.acc": {"$gte": 0.5}}]},
        {"$and": [{"state": "finished"}, {"$nor": [{"tags": "old"}, {"config.lr": {"$gt": 1}}]}]},
    ],
)
def test_conditions_that_hold(condition):
    """They mean what they mean in MongoDB."""
    assert matches(condition)


@pytest.mark.parametrize(
    "condition",
    [
        {"state": "finished", "config.lr": 1},
        {"config.on": 1},
        {"config.lr": {"$gt": "0"}},
        {"config.missing": {"$lt": 1}},
        {"config.missing": {"$exists": True}},
        {"config.depth": 50},
        {"summary_metrics.loss": {"$lt": 1}},
        {"summary_metrics.config": {"$exists": True}},
        {"displayName": {"$regex": "^fox"}},
        {"tags": {"$nin": ["best"]}},
        {"$nor": [{"state": "finished"}]},
        {"createdAt": {"$gt": "2026-03-01T00:00:00Z"}},
    ],
)
def test_conditions_that_do_not_hold(condition):
    """Values of another type, and missing ones, are neither lower nor higher."""
    assert not matches(condition)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "JSON"),
        ("[]", "must be an object"),
        ('{"stat": "x"}', "unknown field 'stat'; did you mean 'state'"),
        ('{"config.": 1}', "unknown field"),
        ('{"$not": []}', "unknown operator '$not'"),
        ('{"config.lr": {"$great": 1}}', "unknown operator '$great'"),
        ('{"$gt": 1}', "write it for a field"),
        ('{"$or": {}}', "must be a list"),
        ('{"$or": [1]}', "filters.$or[0]: must be an object"),
        ('{"tags": {"$in": "best"}}', "must be a list"),
        ('{"state": {"$exists": 1}}', "true or false"),
        ('{"name": {"$regex": "("}}', "not a regular expression"),
        ('{"name": {"$regex": "(?=a)b"}}', "not a regular expression"),
        ('{"createdAt": {"$gt": "yesterday"}}', "not a time"),
        ('{"config.lr": {"$gt": null}}', "has no order"),
        ('{"$and": [' * 30 + '{"state": "x"}' + "]}" * 30, "nested deeper"),
        (json.dumps({"$or": [{"state": "x"}] * 600}), "more than 500 conditions"),
        ('{"state": "' + "x" * 30_000 + '"}', "characters"),
    ],
)
def test_mistakes_are_named(text, named):
    """The message has the place and the unknown word."""
    with pytest.raises(InvalidInput) as error:
        parse_run_filter(text, None)
    assert named in str(error.value)


@given(
    st.dictionaries(
        st.text('a",{[\\\\:', max_size=4),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-9, 9)
            | st.floats(allow_nan=False)
            | st.text('a",{[\\\\:}', max_size=5),
            lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text('a"', max_size=2), children),
        ),
        max_size=4,
    ),
    st.text('a",{[\\\\:', min_size=1, max_size=4),
)
def test_values_are_found_whatever_is_around_them(config, key):
    """Reading one value without parsing everything gives the same as parsing does."""
    run = RunCandidate("run_1", "r", "r", None, "running", None, "a", None, config_json=orjson.dumps(config).decode())
    value = config.get(key)
    exists = {f"config.{key}": {"$exists": value is not None}}
    assert parse_run_filter(json.dumps(exists), None).matches(run)
    if isinstance(value, str | int | float):
        assert parse_run_filter(json.dumps({f"config.{key}": value}), None).matches(run)


def test_no_expression_takes_forever():
    """The expression backtracks exponentially in Python's engine."""
    slow = {"displayName": {"$regex": "(a+)+$"}}
    run = RunCandidate("run_1", "r", "a" * 5_000 + "b", None, "running", None, "ann", None)
    assert not parse_run_filter(json.dumps(slow), None).matches(run)


def test_an_unknown_order_is_named():
    """It is a field, with a sign."""
    with pytest.raises(InvalidInput, match="unknown field 'acc'"):
        parse_run_filter(None, "-acc")
    order = parse_run_filter(None, " summary_metrics.acc").order
    assert order is not None
    assert (order.descending, order.key(RUN)) == (False, (0, 0.5))
