"""Triggers on runs and their metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.automations.factories import CATALOG, automation, automation_on, make_event
from upshot.automations.loader import load_text
from upshot.automations.matcher import Matcher
from upshot.domain.metric_watch import Aggregate, Change, Direction, MetricWatch, Threshold, ZScore

TEXT = """\
name: a
on:
  run-metric: CONDITION
steps:
  - uses: emit
    with: {name: x}
"""
#: Texts of automations, which the JSON Schema must agree on, too.
VALID = [
    TEXT.replace("CONDITION", condition)
    for condition in (
        "{metric: val/loss, threshold: {lt: 0.2}}",
        "{project: review-*, metric: val/loss, agg: avg, window: 5, threshold: {lt: 0.2}}",
        "{job-type: training, name: {not: test-*}, tag: [a, b], actor: ann, metric: f1, threshold: {gte: 1, lt: 2}}",
        "{metric: val/loss, window: 5, change: {by: 10%, direction: down, prior-window: 5}}",
        "{metric: val/loss, change: {by: 0.5}}",
        "{metric: 'top[5]', agg: last, z-score: {above: 3, direction: any}}",
    )
]
INVALID = [
    pytest.param(TEXT.replace("CONDITION", condition), message, id=condition)
    for condition, message in (
        ("{threshold: {lt: 0.2}}", "run-metric.metric: this field is required"),
        ("{metric: f1}", "run-metric: needs one of threshold, change, z-score, and has none"),
        ("{metric: f1, threshold: {lt: 1}, change: {by: 1}}", "and has several"),
        ("{metric: f1, threshold: {}}", "run-metric.threshold: is empty; write a comparison such as `lt: 0.2`"),
        ("{metric: f1, threshold: {le: 1}}", "run-metric.threshold.le: unknown key; did you mean 'lte'?"),
        ("{metric: f1, threshold: {lt: '1'}}", "run-metric.threshold.lt: must be a number, not the string '1'"),
        ("{metric: 'val/*', threshold: {lt: 1}}", "run-metric.metric: is one metric, not a pattern"),
        ("{metric: '{{ x }}', threshold: {lt: 1}}", "run-metric.metric: is the name of a metric, not a template"),
        ("{metric: f1, agg: mean, threshold: {lt: 1}}", "run-metric.agg: must be 'avg', 'min', 'max' or 'last'"),
        ("{metric: f1, window: 0, threshold: {lt: 1}}", "run-metric.window: must be greater than or equal to 1"),
        ("{metric: f1, change: {by: -10%}}", "run-metric.change.by: must be a number above 0, or a part of the value"),
        ("{metric: f1, change: {by: 0}}", "run-metric.change.by: must be a number above 0"),
        ("{metric: f1, z-score: {above: 3, prior-window: 9}}", "must be greater than or equal to 10"),
        ("{metric: f1, z_score: {above: 3}}", "run-metric.z_score: unknown key; did you mean 'z-score'?"),
        ("{metric: f1, collection: x, threshold: {lt: 1}}", "run-metric.collection: unknown key"),
        ("[metric]", "run-metric: must be a mapping of filters"),
    )
]


def watch_of(text):
    return automation(text).triggers[0].watch


def test_conditions_on_metrics_are_parsed():
    """Each form arrives in the trigger."""
    assert [watch_of(text) for text in VALID] == [
        MetricWatch("val/loss", Threshold((("lt", 0.2),))),
        MetricWatch("val/loss", Threshold((("lt", 0.2),)), Aggregate.AVG, 5),
        MetricWatch("f1", Threshold((("lt", 2.0), ("gte", 1.0)))),
        MetricWatch("val/loss", Change(0.1, True, Direction.DOWN, 5), Aggregate.AVG, 5),
        MetricWatch("val/loss", Change(0.5, False, Direction.ANY, 1)),
        MetricWatch("top[5]", ZScore(3, Direction.ANY, 30), Aggregate.LAST),
    ]


@pytest.mark.parametrize(("text", "message"), INVALID)
def test_a_mistake_in_a_condition_is_reported_at_its_line(text, message):
    """The message says what to write."""
    (error,) = load_text(text, "a.yaml", CATALOG).errors

    assert message in str(error)
    assert str(error).startswith("a.yaml:3: ")


def run_event(kind="run-finished", **fields):
    run = {"id": "ab12cd34", "name": "calm lake", "job_type": "training", "tags": ["nightly", "gpu"]} | fields
    event: Any = make_event(kind, run=run)
    return replace(event, data={"project": {"name": "review-1"}, "run": run})


@pytest.mark.parametrize(
    ("filters", "answers"),
    [
        pytest.param({}, True, id="no filter"),
        pytest.param({"project": "review-*", "job-type": "training", "name": "calm*"}, True, id="several"),
        pytest.param({"job-type": "evaluation"}, False, id="another job type"),
        pytest.param({"tag": "gpu"}, True, id="one of its tags"),
        pytest.param({"tag": "g*"}, True, id="a glob of a tag"),
        pytest.param({"tag": "cpu"}, False, id="none of its tags"),
        pytest.param({"tag": {"not": "nightly"}}, False, id="an excluded tag"),
        pytest.param({"tag": ["gpu", {"not": "cpu"}]}, True, id="a tag, and none that is excluded"),
        pytest.param({"name": "ab12*"}, False, id="the name, not the id"),
    ],
)
def test_filters_of_runs(filters, answers):
    """A run has several tags: one must be accepted, and none excluded."""
    matcher = Matcher([automation_on({"run-finished": filters})])

    assert bool(matcher.match(run_event())) is answers
    assert matcher.explain(run_event())[0].answers is answers


def test_a_run_without_a_job_type_does_not_match_a_filter_of_it():
    """The reason says so."""
    (explanation,) = Matcher([automation_on({"run-finished": {"job-type": "*"}})]).explain(run_event(job_type=None))

    assert explanation.reason == "the event has no job-type, wanted '*'"


def test_an_event_about_a_metric_answers_only_its_own_condition():
    """Each automation has a state of its own, so another one with the same condition has another event."""
    condition = {"run-metric": {"metric": "loss", "threshold": {"lt": 0.2}}}
    automations = [automation_on(condition), automation_on(condition, name="b")]
    trigger = automations[0].triggers[0]
    assert trigger.watch is not None
    event = run_event("run-metric")
    event = replace(
        event, data={**event.data, "automation": "a", "metric": {"name": "loss", "condition_id": trigger.watch.key}}
    )

    matcher = Matcher(automations)

    assert [match.automation.name for match in matcher.match(event)] == ["a"]
    assert matcher.explain(event)[1].reason == "this is about the condition of another automation or trigger"
