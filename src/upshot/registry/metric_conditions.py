"""Evaluate the conditions that automations watch, in the transaction that stores the points of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upshot.domain.automation import ActiveWatch
from upshot.domain.event import EventKind
from upshot.domain.metric_history import LogRow, number_of
from upshot.domain.metric_watch import Change, MetricWatch, Threshold, WatchedValues, evaluate
from upshot.domain.run import Run
from upshot.json_numbers import to_json_number
from upshot.ports.metric_watches import ConditionState
from upshot.ports.registry import RegistryTransaction
from upshot.registry.mutation import Mutation
from upshot.registry.run_metrics import PointReader
from upshot.registry.snapshots import run_context

# Others may wait for the transaction that stores the points of a request, so these bound what it does.
MAX_FIRINGS = 10  #: events of one condition because of one request; each contains the config and summary of the run
MAX_EVENTS = 100  #: of all conditions because of one request, where each has one
MAX_EVALUATIONS = 20_000  #: of all conditions because of one request


@dataclass(frozen=True, slots=True)
class EarlierPoints:
    """What the conditions on new points need to know of the points before."""

    states: Mapping[tuple[str, str], ConditionState]  #: by automation and condition
    numbers: Mapping[str, Sequence[float]]  #: the newest points by metric, for conditions without a usable state


def read_earlier_points(tx: RegistryTransaction, run: Run, watches: Sequence[ActiveWatch]) -> EarlierPoints:
    """
    Return what conditions need of the points before new ones are stored.

    A state is not usable if its automation came into force after it: there may have been points meanwhile.
    """
    if not watches:
        return EarlierPoints({}, {})
    states = {(state.automation, state.condition_id): state for state in tx.condition_states(run.summary.id)}
    wanted: dict[str, int] = {}
    for active in watches:
        state = states.get((active.automation, active.watch.key))
        if state is None or (active.since is not None and active.since > state.updated_at):
            metric = active.watch.metric
            wanted[metric] = max(wanted.get(metric, 0), active.watch.points - 1)
    reader = PointReader(tx, run, wanted)
    return EarlierPoints(states, {metric: reader.newest_numbers(metric, count) for metric, count in wanted.items()})


def evaluate_conditions(
    mutation: Mutation, run: Run, rows: Sequence[LogRow], watches: Sequence[ActiveWatch], earlier: EarlierPoints
) -> None:
    """
    Evaluate conditions after each new point, and add an event for each that becomes true.

    With more conditions and points than `MAX_EVALUATIONS`, only the newest points are followed by an evaluation.

    Args:
        mutation: Its transaction stores the points.
        run: The run that logs.
        rows: The new points.
        watches: The conditions on their metrics.
        earlier: From `read_earlier_points`, for these conditions.
    """
    new_points = {metric: _points(rows, metric) for metric in {active.watch.metric for active in watches}}
    context = run_context(run, mutation.base_url, mutation.now)
    evaluations = max(1, MAX_EVALUATIONS // len(watches))
    firings = min(MAX_FIRINGS, max(1, MAX_EVENTS // len(watches)))
    changed = []
    for active in watches:
        watch = active.watch
        steps, new = new_points[watch.metric]
        if not new:
            continue
        state = earlier.states.get((active.automation, watch.key))
        is_usable = state is not None and (active.since is None or active.since <= state.updated_at)
        before = state.recent if state is not None and is_usable else tuple(earlier.numbers[watch.metric])
        numbers = [*before, *new]
        evaluated = min(len(new), evaluations)
        first = len(numbers) - evaluated
        was_true = state is not None and state.is_true
        result = evaluate(watch, numbers[:first], numbers[first:], was_true=was_true)
        for firing in result.firings[:firings]:
            end = first + firing.index + 1
            window = numbers[max(0, end - watch.window) : end]
            data = {
                **context,
                "automation": active.automation,
                "metric": _metric_data(watch, firing.values, window, steps[firing.index - evaluated]),
            }
            mutation.add_event(EventKind.RUN_METRIC, run.summary.reference, data)
        recent = tuple(numbers[-(watch.points - 1) :]) if watch.points > 1 else ()
        changed.append(ConditionState(active.automation, watch.key, result.is_true, recent, mutation.now))
    mutation.tx.save_condition_states(run.summary.id, changed)


def _points(rows: Sequence[LogRow], metric: str) -> tuple[list[int], list[float]]:
    """Return the steps and the values of the points of a metric that are numbers."""
    steps, numbers = [], []
    for row in rows:
        if metric in row.values and (number := number_of(row.values[metric])) is not None:
            steps.append(row.step)
            numbers.append(number)
    return steps, numbers


def _metric_data(watch: MetricWatch, values: WatchedValues, window: Sequence[float], step: int) -> dict[str, Any]:
    return {
        "name": watch.metric,
        "kind": _kind(watch),
        "aggregate": watch.aggregate.value,
        "window": watch.window,
        "value": to_json_number(values.value),
        "values": [to_json_number(number) for number in window],
        "step": step,
        "prior": None if values.prior is None else to_json_number(values.prior),
        "deviation": None if values.deviation is None else to_json_number(values.deviation),
        "condition": watch.describe(),
        "condition_id": watch.key,
    }


def _kind(watch: MetricWatch) -> str:
    if isinstance(watch.condition, Threshold):
        return "threshold"
    return "change" if isinstance(watch.condition, Change) else "z-score"
