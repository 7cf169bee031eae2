"""Metrics that Prometheus reads at `/metrics`: requests of this process, and counts from the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from typing_extensions import override

from upshot.errors import Unavailable
from upshot.ports.counters import IGNORED_ENTRIES
from upshot.ports.deliveries import BUCKETS_SECONDS, DeliveryCount
from upshot.ports.workers import WorkerRecord
from upshot.web.dependencies import WebDependencies


class DatabaseStateCollector(Collector):
    """Measures backlog, workers and automations whenever Prometheus scrapes."""

    def __init__(self, deps: WebDependencies) -> None:
        self._deps = deps

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering the collector does not query the database."""
        return ()

    @override
    def collect(self) -> Iterable[Metric]:
        loaded = self._deps.automations.current
        yield _gauge(
            "clock_skew_seconds",
            "How far the clock of the web process is ahead of the database's.",
            self._deps.clock_skew_seconds(),
        )
        yield _gauge("automations", "Loaded automations.", len(loaded.automations))
        yield _gauge("automations_broken", "Automation files with mistakes, which are not loaded.", len(loaded.broken))
        try:
            stored = list(self._stored())
        except Unavailable:
            stored = []
        yield _gauge("database_up", "Whether the database answers.", 1 if stored else 0)
        yield from stored

    def _stored(self) -> Iterable[Metric]:
        now = self._deps.clock.now()
        backlog = self._deps.backlog.measure(now)
        totals = self._deps.backlog.count()
        workers = self._deps.live_workers()

        def age_seconds(since: datetime | None) -> float:
            return max(0.0, (now - since).total_seconds()) if since else 0.0

        yield _labelled_gauge("executions", "Executions by state.", "state", totals.executions)
        yield _labelled_gauge(
            "executions_waiting",
            "Waiting executions by what they wait for.",
            "reason",
            {kind.value: count for kind, count in totals.waiting.items()},
        )
        yield from self._deliveries()
        yield _labelled_gauge("jobs", "Jobs by state.", "state", totals.jobs)
        yield _labelled_gauge("jobs_queued", "Queued jobs by queue.", "queue", totals.queued_jobs)
        if totals.events is not None:
            yield _gauge("events", "Accepted events that are stored.", totals.events)
        yield _gauge("events_unmatched", "Events that no worker has matched yet.", backlog.unmatched_events)
        yield _gauge(
            "events_unmatched_oldest_seconds",
            "Age of the oldest unmatched event.",
            age_seconds(backlog.oldest_unmatched_at),
        )
        yield _gauge("executions_due", "Waiting executions past their due time.", backlog.due_executions)
        yield _gauge(
            "executions_due_oldest_seconds",
            "Seconds since the earliest due time among them.",
            age_seconds(backlog.oldest_due_at),
        )
        yield _gauge(
            "workers_clock_skew_seconds",
            "Largest difference between the clock of a worker's machine and the database's.",
            max((abs(worker.clock_skew_seconds) for worker in workers), default=0.0),
        )
        yield CounterMetricFamily(
            "upshot_stream_entries_ignored",
            "Entries of the stream that belong to no accepted event.",
            self._deps.counters.read().get(IGNORED_ENTRIES, 0),
        )
        yield _gauge("workers", "Workers that are alive.", len(workers))
        yield self._automation_sets(workers)
        yield _gauge(
            "workers_in_progress",
            "Executions that workers are carrying out.",
            sum(worker.in_progress for worker in workers),
        )

    def _deliveries(self) -> Iterable[Metric]:
        attempts = CounterMetricFamily(
            "upshot_attempts",
            "Attempts of steps by action, destination and result. Workers report them every few seconds.",
            labels=["action", "destination", "result"],
        )
        seconds = HistogramMetricFamily(
            "upshot_attempt_seconds",
            "Seconds that attempts took, from rendering to the answer; for jobs, until they ended.",
            labels=["action", "destination"],
        )
        by_destination: defaultdict[tuple[str, str], DeliveryCount] = defaultdict(DeliveryCount)
        for key, count in self._deps.deliveries.read().items():
            attempts.add_metric(list(key), count.attempts)
            by_destination[key.action, key.destination] += count
        for labels, count in by_destination.items():
            bounds = [*map(floatToGoString, BUCKETS_SECONDS), "+Inf"]
            totals = [*accumulate(count.buckets), count.attempts]
            seconds.add_metric(list(labels), list(zip(bounds, totals, strict=True)), count.seconds)
        yield attempts
        yield seconds

    def _automation_sets(self, workers: Sequence[WorkerRecord]) -> Metric:
        gauge = GaugeMetricFamily(
            "upshot_worker_matches_events",
            "Whether a worker answers events. It does if its automations are in force.",
            labels=["worker", "set", "number", "difference"],
        )
        known = self._deps.automation_sets.read()
        for worker in workers:
            if holding := known.holdings.get(worker.id):
                number = str(known.number_of(holding.digest) or "")
                labels = [worker.id, holding.digest, number, holding.difference or ""]
                gauge.add_metric(labels, 1 if holding.matches else 0)
        return gauge


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"upshot_{name}", help_text, value)


def _labelled_gauge(name: str, help_text: str, label: str, counts: Mapping[str, int]) -> Metric:
    gauge = GaugeMetricFamily(f"upshot_{name}", help_text, labels=[label])
    for value, count in counts.items():
        gauge.add_metric([value], count)
    return gauge


def make_metrics(deps: WebDependencies) -> CollectorRegistry:
    """Return the registry of metrics that `/metrics` shows."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(DatabaseStateCollector(deps))
    return registry
