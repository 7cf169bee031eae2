"""
Which queued jobs an offer may take, found without reading through a long queue.

Each queue is read along its index in the order of turns, a few rows at a time, only as far as
there is room; the rows of steps that have turned out to be full are left to the database.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.job_moves import ActiveJobs, Candidate, Tally
from upshot.adapters.sql.schema import is_active, is_queued, jobs
from upshot.ports.jobs import JobOffer

_AT_ONCE = 64
_BEFORE_ALL = (-(2**31), "")  # rank and id; the smallest INTEGER of PostgreSQL

_is_due = sa.and_(
    is_queued,
    sa.or_(jobs.c.due_at.is_(None), jobs.c.due_at <= sa.bindparam("now")),
    jobs.c.stop_asked_at.is_(None),
    jobs.c.backend.in_(sa.bindparam("backends", expanding=True)),
)
_ANY = sa.select(jobs.c.id).where(_is_due, jobs.c.queue.in_(sa.bindparam("queues", expanding=True))).limit(1)
_COUNTED = (jobs.c.queue, jobs.c.machine, jobs.c.automation, jobs.c.step)
_COUNT = sa.select(*_COUNTED, sa.func.count()).where(is_active).group_by(*_COUNTED)
_NEXT = (
    sa.select(jobs.c.rank, jobs.c.id, jobs.c.queue, jobs.c.automation, jobs.c.step, jobs.c.concurrency)
    .where(
        _is_due,
        jobs.c.queue == sa.bindparam("queue"),
        sa.tuple_(jobs.c.rank, jobs.c.id)
        > sa.tuple_(sa.bindparam("rank", type_=sa.Integer), sa.bindparam("after", type_=sa.String)),
        sa.or_(
            jobs.c.concurrency.is_(None),
            sa.tuple_(jobs.c.automation, jobs.c.step, jobs.c.concurrency).not_in(sa.bindparam("full", expanding=True)),
        ),
    )
    .order_by(jobs.c.rank, jobs.c.id)
    .limit(_AT_ONCE)
)


def choose_queued(connection: Connection, offer: JobOffer, now: datetime) -> list[str]:
    """Ids of the due jobs that fit the offer, in the order of their turns; counts what is active as it stands now."""
    asked = {"now": now, "backends": list(offer.engines)}
    if not offer.engines or connection.execute(_ANY, asked | {"queues": list(offer.queues)}).first() is None:
        return []
    tally = Tally(offer, (ActiveJobs(*row) for row in connection.execute(_COUNT)))

    def queued(queue: str) -> Iterator[Candidate]:
        rank, after = _BEFORE_ALL
        while tally.has_room and tally.is_open(queue):
            place = {"queue": queue, "rank": rank, "after": after, "full": list(tally.full)}
            rows = connection.execute(_NEXT, asked | place).all()
            yield from (Candidate(*row) for row in rows)
            if len(rows) < _AT_ONCE:
                return
            rank, after = rows[-1].rank, rows[-1].id

    return tally.choose(heapq.merge(*(queued(queue) for queue in offer.queues)))
