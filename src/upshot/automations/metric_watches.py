"""Find the automations in force that watch a metric of a run."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta

from typing_extensions import override

from upshot.automations.triggers import Filter, Values
from upshot.clock import Clock
from upshot.domain.automation import ActiveWatch
from upshot.domain.run import Run
from upshot.ports.executions import RevisionStore
from upshot.ports.metric_watches import MetricWatches

#: How long a change of the automations in force can stay unnoticed.
REFRESH = timedelta(seconds=1)

_RUN_VALUES: Mapping[str, Callable[[Run, str], Values]] = {
    "project": lambda run, _actor: run.summary.project,
    "job-type": lambda run, _actor: run.summary.job_type,
    "name": lambda run, _actor: run.summary.name,
    "tag": lambda run, _actor: run.tags,
    "actor": lambda _run, actor: actor,
}


class _Watcher:
    """What an automation watches, with compiled filters."""

    __slots__ = ("_filters", "active")

    def __init__(self, active: ActiveWatch) -> None:
        self.active = active
        self._filters = [Filter(name, pattern) for name, pattern in active.filters.items()]

    def accepts(self, run: Run, actor: str) -> bool:
        """Return whether the filters accept a run."""
        return all(filter_.accepts(_RUN_VALUES[filter_.name](run, actor)) for filter_ in self._filters)


class StoredMetricWatches(MetricWatches):
    """
    Reads what the automations in force watch, at most once a second.

    Args:
        revisions: Knows the automations in force.
        clock: Returns the current time.
    """

    def __init__(self, revisions: RevisionStore, clock: Clock) -> None:
        self._revisions = revisions
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at: datetime | None = None
        self._by_metric: Mapping[str, Sequence[_Watcher]] = {}

    @override
    def refresh(self) -> None:
        now = self._clock.now()
        with self._lock:
            if self._read_at is not None and timedelta(0) <= now - self._read_at < REFRESH:
                return
            by_metric: defaultdict[str, list[_Watcher]] = defaultdict(list)
            for active in self._revisions.watches():
                by_metric[active.watch.metric].append(_Watcher(active))
            self._by_metric, self._read_at = by_metric, now

    @override
    def find(self, run: Run, actor: str, metrics: Collection[str]) -> Sequence[ActiveWatch]:
        by_metric = self._by_metric
        if not by_metric:
            return ()
        found = {
            (watcher.active.automation, watcher.active.watch): watcher.active
            for metric in metrics
            for watcher in by_metric.get(metric, ())
            if watcher.accepts(run, actor)
        }
        return list(found.values())  # two entries of `on` with other filters may watch the same
