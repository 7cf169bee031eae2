"""What people ask about jobs in SQL and do to them."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.cursor import after_cursor, make_cursor
from upshot.adapters.serialization.jobs import job_from_row
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.job_logs import read_log
from upshot.adapters.sql.job_rows import change_jobs, lock_executions, wake
from upshot.adapters.sql.schema import executions, is_active, is_queued, job_logs, jobs
from upshot.domain.execution import ExecutionState
from upshot.domain.job import Job, JobState
from upshot.jobs.scheduling import cancel_queued, cannot_be_stopped, no_such_job, with_stop_request
from upshot.ports.jobs import JobQuery, LogChunk, QueuePosition
from upshot.ports.paging import Page

_PRUNED_AT_ONCE = 50  # the log of each may be megabytes

_FIND = sa.select(jobs).where(jobs.c.id == sa.bindparam("id"))
_LIST = sa.select(*(column for column in jobs.c if column.name not in {"outputs", "log_tail"}))
_LOCK = _FIND.with_for_update()
_EXECUTION = sa.select(jobs.c.execution_id).where(jobs.c.id == sa.bindparam("id"))
_STANDING = sa.select(jobs.c.queue, jobs.c.rank).where(jobs.c.id == sa.bindparam("id"), is_queued)
_AHEAD = sa.select(sa.func.count()).where(
    is_queued,
    jobs.c.queue == sa.bindparam("queue"),
    sa.tuple_(jobs.c.rank, jobs.c.id)
    < sa.tuple_(sa.bindparam("rank", type_=sa.Integer), sa.bindparam("id", type_=sa.String)),
)
# Of all queues: asked for one alone, an SQLite would go through everything that this queue has ever had.
_ACTIVE = sa.select(jobs.c.queue, sa.func.count()).where(is_active).group_by(jobs.c.queue)
_PRUNABLE = (
    sa.select(jobs.c.id)
    .join(executions, executions.c.id == jobs.c.execution_id)
    .where(
        jobs.c.finished_at < sa.bindparam("before"),
        executions.c.state.not_in([ExecutionState.WAITING.value, ExecutionState.RUNNING.value]),
    )
    .order_by(jobs.c.finished_at)
    .limit(_PRUNED_AT_ONCE)
    .with_for_update(of=jobs, skip_locked=True)
)
_REMOVE_LOGS = sa.delete(job_logs).where(job_logs.c.job_id.in_(sa.bindparam("ids", expanding=True)))
_REMOVE = sa.delete(jobs).where(jobs.c.id.in_(sa.bindparam("ids", expanding=True)))


class SqlJobAdmin:
    """`JobDesk` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, job_id: str) -> Job | None:
        """One job."""
        row = self._database.read(lambda connection: connection.execute(_FIND, {"id": job_id}).mappings().first())
        return job_from_row(row) if row else None

    def page(self, query: JobQuery, *, cursor: str | None, limit: int) -> Page[Job]:
        """Jobs, newest first, without their outputs and log tails."""
        select = _LIST.order_by(jobs.c.id.desc()).limit(limit + 1)
        if cursor is not None:
            select = select.where(jobs.c.id < after_cursor(cursor))
        if query.state is not None:
            select = select.where(jobs.c.state == query.state.value)
        for name in ("queue", "automation", "execution_id"):
            if (wanted := getattr(query, name)) is not None:
                select = select.where(jobs.c[name] == wanted)
        rows = self._database.read(lambda connection: connection.execute(select).mappings().all())
        items = tuple(job_from_row(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].id) if len(rows) > limit else None)

    def queue_position(self, job: Job) -> QueuePosition | None:
        """Where a queued job stands; None when it is not queued."""

        def work(connection: Connection) -> QueuePosition | None:
            standing = connection.execute(_STANDING, {"id": job.id}).first()
            if standing is None:
                return None
            asked = {"id": job.id, "queue": standing.queue, "rank": standing.rank}
            ahead = connection.execute(_AHEAD, asked).scalar_one()
            active = {row[0]: row[1] for row in connection.execute(_ACTIVE)}
            return QueuePosition(ahead=ahead, active=active.get(standing.queue, 0))

        return self._database.read(work)

    def log(self, job_id: str, *, after: int, limit: int) -> tuple[LogChunk, ...]:
        """Pieces of the log after that number, in order."""
        return self._database.read(lambda connection: read_log(connection, job_id, after=after, limit=limit))

    def request_stop(self, job_id: str, who: str, now: datetime) -> Job:
        """Ask a job to stop; a queued one is CANCELLED at once and wakes its execution."""

        def work(connection: Connection) -> Job:
            execution = connection.execute(_EXECUTION, {"id": job_id}).scalar_one_or_none()
            if execution is None:
                raise no_such_job(job_id)
            lock_executions(connection, [execution])
            job = job_from_row(connection.execute(_LOCK, {"id": job_id}).mappings().one())
            if job.state.is_final:
                raise cannot_be_stopped(job)
            asked = with_stop_request(job, who, now)
            if job.state is JobState.QUEUED:
                asked = cancel_queued(asked, now)
                wake(connection, {execution: now})
            if asked != job:
                change_jobs(connection, [asked])
            return asked

        return self._database.write(work)

    def prune(self, *, finished_before: datetime) -> int:
        """Remove jobs and their logs that ended before then and whose execution is final; returns how many."""

        def work(connection: Connection) -> int:
            ids = connection.execute(_PRUNABLE, {"before": finished_before}).scalars().all()
            if ids:
                connection.execute(_REMOVE_LOGS, {"ids": ids})
                connection.execute(_REMOVE, {"ids": ids})
            return len(ids)

        # In small transactions, for whoever wants to write meanwhile.
        removed = last = self._database.write(work)
        while last == _PRUNED_AT_ONCE:
            last = self._database.write(work)
            removed += last
        return removed
