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

    Args:
        mutation: Its transaction stores the points.
        run: The run that logs.
        rows: The new points.
        watches: The conditions on their metrics.
        earlier: From `read_earlier_points`, for these conditions.
    """
    changed = []
    for active in watches:
        watch = active.watch
        new = [
            (row.step, number)
            for row in rows
            if watch.metric in row.values and (number := number_of(row.values[watch.metric])) is not None
        ]
        if not new:
            continue
        state = earlier.states.get((active.automation, watch.key))
        is_usable = state is not None and (active.since is None or active.since <= state.updated_at)
        before = state.recent if state is not None and is_usable else tuple(earlier.numbers[watch.metric])
        numbers = [*before, *(number for _, number in new)]
        result = evaluate(watch, before, numbers[len(before) :], was_true=state is not None and state.is_true)
        for firing in result.firings:
            end = len(before) + firing.index + 1
            data = {
                **run_context(run, mutation.base_url, mutation.now),
                "automation": active.automation,
                "metric": _metric_data(watch, firing.values, numbers[:end][-watch.window :], new[firing.index][0]),
            }
            mutation.add_event(EventKind.RUN_METRIC, run.summary.reference, data)
        recent = tuple(numbers[-(watch.points - 1) :]) if watch.points > 1 else ()
        changed.append(ConditionState(active.automation, watch.key, result.is_true, recent, mutation.now))
    mutation.tx.save_condition_states(run.summary.id, changed)


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
