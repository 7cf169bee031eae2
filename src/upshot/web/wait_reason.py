"""Why a queued job does not run yet, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from upshot.clock import format_time
from upshot.domain.job import Job, JobState
from upshot.ports.jobs import ConcurrencyLimits, QueuePosition
from upshot.ports.workers import WorkerRecord

_TEENS = range(11, 14)  # 11th, 12th, 13th
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def why_it_waits(
    job: Job, place: QueuePosition | None, *, limits: ConcurrencyLimits, workers: Sequence[WorkerRecord], now: datetime
) -> str | None:
    """
    Say what a job waits for: its end, a time, a worker, its place.

    Args:
        job: It.
        place: Where it stands.
        limits: Of its queue.
        workers: Those that are alive.
        now: The present moment.

    Returns:
        One line; None when it is not queued.
    """
    if job.state is not JobState.QUEUED or place is None:
        return None
    words = _stop(job) or _time(job, now) or _worker(job, workers) or "; ".join(_turn(job, place, limits, workers))
    return f"{words}; {job.reason}" if job.reason else words


def _stop(job: Job) -> str | None:
    return f"is about to be cancelled, by {job.stop_requested_by}" if job.stop_requested_at else None


def _time(job: Job, now: datetime) -> str | None:
    if job.due_at is None or job.due_at <= now:
        return None
    until = f"until {format_time(job.due_at)}"
    return f"waits for its {_ordinal(job.attempt)} try {until}" if job.attempt > 1 else f"waits {until}"


def _worker(job: Job, workers: Sequence[WorkerRecord]) -> str | None:
    if not workers:
        return "no worker is alive; start `upshot worker`"
    takers = _takers(job, workers)
    if not takers:
        return f"no worker takes queue {job.queue}; start `upshot worker --queues {job.queue}`"
    if not any(job.backend in worker.engines for worker in takers):
        hosts = ", ".join(sorted({worker.machine or worker.host for worker in takers}))
        return f"no worker reaches backend {job.backend}; look at its engine, or at the worker's log on {hosts}"
    return None


def _turn(job: Job, place: QueuePosition, limits: ConcurrencyLimits, workers: Sequence[WorkerRecord]) -> Iterator[str]:
    yield f"{_ordinal(place.ahead + 1)} in queue {job.queue}" if place.ahead else f"next in queue {job.queue}"
    machines = {worker.machine for worker in _takers(job, workers) if job.backend in worker.engines}
    places = _places(limits, len(machines))
    if places is None:
        yield f"{place.active} of its jobs run"
    else:
        yield f"{place.active} of {places} places are taken"
    if job.concurrency is not None:
        yield f"at most {job.concurrency} of this step at the same time"


def _places(limits: ConcurrencyLimits, machines: int) -> int | None:
    """How many jobs of the queue can be active at the same time; None: any number."""
    on_all = None if limits.per_machine is None else limits.per_machine * machines
    return min((limit for limit in (limits.concurrency, on_all) if limit is not None), default=None)


def _takers(job: Job, workers: Sequence[WorkerRecord]) -> list[WorkerRecord]:
    return [worker for worker in workers if job.queue in worker.queues]


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in _TEENS else _ENDINGS.get(number % 10, "th")
    return f"{number}{ending}"
