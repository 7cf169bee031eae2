"""
Find the queued jobs that a worker may start, without reading through a long queue.

For each queue and backend, jobs are read along an index in starting order, a few rows at a time, and only while
there is room. The database skips steps that were found to be full.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.sql.schema import is_active, is_queued, jobs
from upshot.ids import JobId
from upshot.jobs.scheduling import ActiveJobs, QueuedJob, SlotCounter
from upshot.ports.jobs import WorkerCapacity

_BATCH = 64
_START = (-(2**31), "")  # a rank and an id before all others; the smallest INTEGER of PostgreSQL

_ANY = sa.select(jobs.c.id).where(is_queued).limit(1)
_COUNTED = (jobs.c.queue, jobs.c.machine, jobs.c.automation, jobs.c.step_id)
_COUNT = sa.select(*_COUNTED, sa.func.count()).where(is_active).group_by(*_COUNTED)
_NEXT = (
    sa.select(jobs.c.rank, jobs.c.id, jobs.c.queue, jobs.c.automation, jobs.c.step_id, jobs.c.concurrency)
    .where(
        is_queued,
        jobs.c.queue == sa.bindparam("queue"),
        jobs.c.backend == sa.bindparam("backend"),
        sa.tuple_(jobs.c.rank, jobs.c.id)
        > sa.tuple_(sa.bindparam("rank", type_=sa.Integer), sa.bindparam("after", type_=sa.String)),
        sa.or_(jobs.c.due_at.is_(None), jobs.c.due_at <= sa.bindparam("now")),
        jobs.c.stop_requested_at.is_(None),
        sa.or_(
            jobs.c.concurrency.is_(None),
            sa.tuple_(jobs.c.automation, jobs.c.step_id, jobs.c.concurrency).not_in(
                sa.bindparam("full", expanding=True)
            ),
        ),
    )
    .order_by(jobs.c.rank, jobs.c.id)
    .limit(_BATCH)
)


def choose_queued(connection: Connection, capacity: WorkerCapacity, now: datetime) -> list[JobId]:
    """Return the ids of the due jobs that fit, in starting order, given the jobs that are active now."""
    if connection.execute(_ANY).first() is None:
        return []
    slots = SlotCounter(capacity, (ActiveJobs(*row) for row in connection.execute(_COUNT)))

    def candidates(queue: str, backend: str) -> Iterator[QueuedJob]:
        rank, after = _START
        while slots.has_room and slots.is_open(queue):
            parameters = {"queue": queue, "backend": backend, "rank": rank, "after": after, "now": now}
            rows = connection.execute(_NEXT, parameters | {"full": list(slots.full)}).all()
            yield from (QueuedJob(*row) for row in rows)
            if len(rows) < _BATCH:
                return
            rank, after = rows[-1].rank, rows[-1].id

    return slots.choose(
        heapq.merge(*(candidates(queue, backend) for queue in capacity.queues for backend in capacity.engine_ids))
    )
