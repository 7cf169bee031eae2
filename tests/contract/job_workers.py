"""
A process that empties queues from several threads: `python -m tests.contract.job_workers URL NAME MACHINE`.

Whenever a thread has claimed jobs, it checks that the limits hold for all active jobs in the database. It sends
some jobs back for another attempt, and ends the others.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from tests.contract.job_stores import LATER, NOW, capacity, ended
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.jobs import SqlJobs
from upshot.adapters.sql.schema import is_active, jobs
from upshot.domain.job import Job, JobState
from upshot.ports.jobs import ConcurrencyLimits, JobQuery, JobUpdate, WorkerCapacity

THREADS = 3
QUEUES = {
    "a": ConcurrencyLimits(concurrency=5, per_machine=3),
    "b": ConcurrencyLimits(concurrency=4),
    "c": ConcurrencyLimits(),
}
MACHINE_LIMIT = 6


def limited_capacity(worker_id: str, machine: str, **changes: Any) -> WorkerCapacity:
    """Return the capacity of a worker that takes all queues under all limits."""
    return capacity(worker_id, machine=machine, queues=QUEUES, machine_limit=MACHINE_LIMIT, **changes)


def exceeded_limits(database: Database) -> list[str]:
    """Return the limits that are exceeded now."""
    active = database.read(lambda connection: connection.execute(sa.select(jobs).where(is_active)).all())
    counted: list[tuple[Counter[Any], Any]] = [
        (Counter(job.queue for job in active), lambda queue: QUEUES[queue].concurrency),
        (Counter((job.queue, job.machine) for job in active), lambda key: QUEUES[key[0]].per_machine),
        (Counter(job.machine for job in active), lambda _: MACHINE_LIMIT),
        (Counter((job.step_id, job.concurrency) for job in active), lambda step: step[1]),
    ]
    limited = [(name, count, limit(name)) for counts, limit in counted for name, count in counts.items()]
    return [f"{count} of {name}, not {limit}" for name, count, limit in limited if limit is not None and count > limit]


def has_queued_jobs(store: SqlJobs) -> bool:
    """Return whether a job is queued."""
    return bool(store.page(JobQuery(frozenset({JobState.QUEUED})), cursor=None, limit=1).items)


def work(database: Database, own: WorkerCapacity) -> None:
    """Claim and finish jobs until none is queued."""
    store = SqlJobs(database)
    while has_queued_jobs(store):
        claimed = store.claim_queued(own, now=NOW, until=LATER)
        exceeded = exceeded_limits(database)
        assert not exceeded, exceeded
        finish(store, claimed)


def finish(store: SqlJobs, claimed: Sequence[Job]) -> None:
    """Let the jobs run. A job with a priority needs two attempts."""
    running = [replace(job, state=JobState.RUNNING) for job in claimed]
    assert not store.record([JobUpdate(job) for job in running]), "only one worker has a job"
    for job in running:
        if job.priority and job.attempt == 1:
            after = replace(job, state=JobState.QUEUED, due_at=NOW, attempt=2)
        else:
            after = ended(job)
        assert not store.record([JobUpdate(after, wakes_execution=after.state.is_final)]), "only one worker has a job"


if __name__ == "__main__":
    _, url, name, machine = sys.argv
    with ThreadPoolExecutor(THREADS) as pool:
        capacities = [limited_capacity(f"{name}{thread}", machine, max_jobs=4) for thread in range(THREADS)]
        own_database = Database(url)
        list(pool.map(lambda own: work(own_database, own), capacities))
