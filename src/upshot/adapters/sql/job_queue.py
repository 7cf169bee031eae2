"""
Which queued jobs an offer may take, found without reading through a long queue.

Of each queue, the jobs of each backend are read along their index in the order of turns, a few rows
at a time, only as far as there is room; steps that have turned out to be full are passed over by
the database.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.sql.schema import is_active, is_queued, jobs
from upshot.jobs.scheduling import ActiveJobs, QueuedJob, SlotCounter
from upshot.ports.jobs import WorkerCapacity

_AT_ONCE = 64
_BEFORE_ALL = (-(2**31), "")  # rank and id; the smallest INTEGER of PostgreSQL

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
    .limit(_AT_ONCE)
)


def choose_queued(connection: Connection, offer: WorkerCapacity, now: datetime) -> list[str]:
    """Ids of the due jobs that fit the offer, in the order of their turns; counts what is active as it stands now."""
    if connection.execute(_ANY).first() is None:
        return []
    tally = SlotCounter(offer, (ActiveJobs(*row) for row in connection.execute(_COUNT)))

    def queued(queue: str, backend: str) -> Iterator[QueuedJob]:
        rank, after = _BEFORE_ALL
        while tally.has_room and tally.is_open(queue):
            place = {"queue": queue, "backend": backend, "rank": rank, "after": after}
            rows = connection.execute(_NEXT, place | {"now": now, "full": list(tally.full)}).all()
            yield from (QueuedJob(*row) for row in rows)
            if len(rows) < _AT_ONCE:
                return
            rank, after = rows[-1].rank, rows[-1].id

    lines = [queued(queue, backend) for queue in offer.queues for backend in offer.engines]
    return tally.choose(heapq.merge(*lines))
