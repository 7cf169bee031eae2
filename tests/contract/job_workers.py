"""
A process that works queues dry from several threads: `python -m tests.contract.job_workers URL NAME MACHINE`.

Whenever a thread has claimed something, it looks at all active jobs of the database: the limits
that it claimed under must hold. It sends some jobs back for another try, and ends the others.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from tests.contract.job_stores import LATER, NOW, ended, offer
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


def limited_offer(owner: str, machine: str, **changes: Any) -> WorkerCapacity:
    """An offer of all queues under all limits."""
    return offer(owner, machine=machine, queues=QUEUES, machine_limit=MACHINE_LIMIT, **changes)


def breaches(database: Database) -> list[str]:
    """Which limits do not hold at this moment."""
    active = database.read(lambda connection: connection.execute(sa.select(jobs).where(is_active)).all())
    counted: list[tuple[Counter[Any], Any]] = [
        (Counter(job.queue for job in active), lambda queue: QUEUES[queue].concurrency),
        (Counter((job.queue, job.machine) for job in active), lambda place: QUEUES[place[0]].per_machine),
        (Counter(job.machine for job in active), lambda _: MACHINE_LIMIT),
        (Counter((job.step_id, job.concurrency) for job in active), lambda step: step[1]),
    ]
    limited = [(name, count, limit(name)) for counts, limit in counted for name, count in counts.items()]
    return [f"{count} of {name}, not {limit}" for name, count, limit in limited if limit is not None and count > limit]


def is_left(store: SqlJobs) -> bool:
    """Something is queued."""
    return bool(store.page(JobQuery(JobState.QUEUED), cursor=None, limit=1).items)


def work(database: Database, mine: WorkerCapacity) -> None:
    """What one thread does: claim and see through, until nothing is left."""
    store = SqlJobs(database)
    while is_left(store):
        claimed = store.claim_queued(mine, now=NOW, until=LATER)
        found = breaches(database)
        assert not found, found
        see_through(store, claimed)


def see_through(store: SqlJobs, claimed: Sequence[Job]) -> None:
    """Let the jobs run, those with a priority in two tries."""
    running = [replace(job, state=JobState.RUNNING) for job in claimed]
    assert not store.record([JobUpdate(job) for job in running]), "a job is held by one worker"
    for job in running:
        if job.priority and job.attempt == 1:
            after = replace(job, state=JobState.QUEUED, due_at=NOW, attempt=2)
        else:
            after = ended(job)
        assert not store.record([JobUpdate(after, wakes=after.state.is_final)]), "a job is held by one worker"


if __name__ == "__main__":
    _, url, name, machine = sys.argv
    of_this_process = Database(url)
    with ThreadPoolExecutor(THREADS) as pool:
        offers = [limited_offer(f"{name}{thread}", machine, max_jobs=4) for thread in range(THREADS)]
        list(pool.map(lambda mine: work(of_this_process, mine), offers))
