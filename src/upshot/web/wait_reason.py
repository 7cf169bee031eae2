"""Explain why a queued job does not run yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from upshot.clock import format_time
from upshot.domain.job import Job, JobState
from upshot.ports.jobs import ConcurrencyLimits, QueuePosition
from upshot.ports.workers import WorkerRecord

_TEENS = range(11, 14)  # 11th, 12th, 13th
_ORDINAL_SUFFIXES = {1: "st", 2: "nd", 3: "rd"}


def explain_wait(
    job: Job,
    position: QueuePosition | None,
    *,
    limits: ConcurrencyLimits,
    workers: Sequence[WorkerRecord],
    now: datetime,
) -> str | None:
    """
    Explain what a job waits for: its cancellation, a time, a worker, or its turn in the queue.

    Args:
        job: The job.
        position: Its position in the queue.
        limits: Concurrency limits of its queue.
        workers: The workers that are alive.
        now: The current time.

    Returns:
        One line, or None if the job is not queued.
    """
    if job.state is not JobState.QUEUED or position is None:
        return None
    takers = [worker for worker in workers if job.queue in worker.queues]
    if job.stop_requested_at:
        text = f"is about to be cancelled, by {job.stop_requested_by}"
    elif job.due_at is not None and job.due_at > now:
        until = f"until {format_time(job.due_at)}"
        text = f"waits for its {_ordinal(job.attempt)} attempt {until}" if job.attempt > 1 else f"waits {until}"
    elif not workers:
        text = "no worker is alive; start `upshot worker`"
    elif not takers:
        text = f"no worker takes queue {job.queue}; start `upshot worker --queues {job.queue}`"
    elif not any(job.backend in worker.engines for worker in takers):
        hosts = ", ".join(sorted({worker.machine or worker.host for worker in takers}))
        text = f"no worker reaches backend {job.backend}; check its engine, or the worker's log on {hosts}"
    else:
        machines = {worker.machine for worker in takers if job.backend in worker.engines}
        text = "; ".join(_explain_turn(job, position, _slots(limits, len(machines))))
    return f"{text}; {job.reason}" if job.reason else text


def _explain_turn(job: Job, position: QueuePosition, slots: int | None) -> Iterator[str]:
    yield f"{_ordinal(position.ahead + 1)} in queue {job.queue}" if position.ahead else f"next in queue {job.queue}"
    if slots is None:
        yield f"{position.active} of its jobs run"
    else:
        yield f"{position.active} of {slots} slots are taken"
    if job.concurrency is not None:
        yield f"at most {job.concurrency} of this step at the same time"


def _slots(limits: ConcurrencyLimits, machines: int) -> int | None:
    """Return how many jobs of the queue can be active at the same time; None means any number."""
    on_all_machines = None if limits.per_machine is None else limits.per_machine * machines
    return min((limit for limit in (limits.concurrency, on_all_machines) if limit is not None), default=None)


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in _TEENS else _ORDINAL_SUFFIXES.get(number % 10, "th")
    return f"{number}{suffix}"
