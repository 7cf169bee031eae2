"""What Prometheus reads at `/metrics`: requests of this process, and what stands in the database."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from upshot.errors import Unavailable
from upshot.web.dependencies import WebDependencies

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_BUCKETS_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class RequestMetrics:
    """Counts and times requests by route: templates of paths, never paths, so that labels stay few."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "upshot_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "upshot_http_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["method", "route"],
            buckets=_BUCKETS_SECONDS,
            registry=registry,
        )

    def note(self, method: str, route: str, status: int, took_seconds: float) -> None:
        """Count one request; a status of 0 is one that got no answer."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(took_seconds)


class DatabaseStateCollector(Collector):
    """Measures the backlog and the workers when it is scraped."""

    def __init__(self, house: WebDependencies) -> None:
        self._house = house

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """What stands now; the files of automations alone when the database does not answer."""
        loaded = self._house.automations.current
        yield _gauge("automations", "Automations that are loaded.", len(loaded.automations))
        yield _gauge("automations_broken", "Automation files that keep their automations out.", len(loaded.broken))
        try:
            stored = list(self._stored())
        except Unavailable:
            stored = []
        yield _gauge("database_up", "Whether the database answers.", 1 if stored else 0)
        yield from stored

    def _stored(self) -> Iterable[Metric]:
        now = self._house.clock.now()
        backlog = self._house.backlog.measure(now)
        workers = self._house.workers_alive()

        def age_seconds(since: datetime | None) -> float:
            return max(0.0, (now - since).total_seconds()) if since else 0.0

        by_state = GaugeMetricFamily("upshot_executions", "Executions by state.", labels=["state"])
        for state, count in backlog.executions.items():
            by_state.add_metric([state], count)
        yield by_state
        jobs_by_state = GaugeMetricFamily("upshot_jobs", "Jobs by state.", labels=["state"])
        for state, count in backlog.jobs.items():
            jobs_by_state.add_metric([state], count)
        yield jobs_by_state
        queued = GaugeMetricFamily("upshot_jobs_queued", "Queued jobs by queue.", labels=["queue"])
        for queue, count in backlog.queued_jobs.items():
            queued.add_metric([queue], count)
        yield queued
        yield _gauge("events", "Events accepted in all.", backlog.events)
        yield _gauge("events_unmatched", "Events that no worker has matched yet.", backlog.unmatched_events)
        yield _gauge(
            "events_unmatched_oldest_seconds", "Age of the oldest of them.", age_seconds(backlog.oldest_unmatched_at)
        )
        yield _gauge("executions_due", "Executions that wait past their time.", backlog.due_executions)
        yield _gauge(
            "executions_due_oldest_seconds", "How late the latest of them is.", age_seconds(backlog.oldest_due_at)
        )
        yield _gauge("workers", "Workers that are alive.", len(workers))
        yield _gauge("workers_in_hand", "Executions that workers hold.", sum(worker.in_progress for worker in workers))


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"upshot_{name}", meaning, value)


def make_registry(house: WebDependencies) -> CollectorRegistry:
    """What `/metrics` shows of this process and house."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(DatabaseStateCollector(house))
    return registry
