"""What people read about jobs in SQL, and what they request."""

from __future__ import annotations

import time
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, make_cursor
from upshot.adapters.serialization.jobs import job_from_row
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.job_logs import read_log
from upshot.adapters.sql.job_rows import lock_executions, update_jobs, wake_executions
from upshot.adapters.sql.schema import executions, has_id_part, is_active, is_queued, job_logs, jobs
from upshot.domain.execution import ExecutionState
from upshot.domain.job import Job
from upshot.errors import NotFound
from upshot.ids import JobId
from upshot.jobs.transitions import request_stop
from upshot.ports.jobs import JobAdmin, JobQuery, LogChunk, QueuePosition
from upshot.ports.paging import Page

_PRUNE_BATCH = 5  # jobs in one transaction; the log of each may be megabytes
_PRUNE_PAUSE_SECONDS = 0.05

_FIND = sa.select(jobs).where(jobs.c.id == sa.bindparam("id"))
_LIST = sa.select(*(column for column in jobs.c if column.name not in {"outputs", "log_tail"}))
_LOCK = _FIND.with_for_update()
_EXECUTION_ID = sa.select(jobs.c.execution_id).where(jobs.c.id == sa.bindparam("id"))
_QUEUED = sa.select(jobs.c.queue, jobs.c.rank).where(jobs.c.id == sa.bindparam("id"), is_queued)
_COUNT_AHEAD = sa.select(sa.func.count()).where(
    is_queued,
    jobs.c.queue == sa.bindparam("queue"),
    sa.tuple_(jobs.c.rank, jobs.c.id)
    < sa.tuple_(sa.bindparam("rank", type_=sa.Integer), sa.bindparam("id", type_=sa.String)),
)
# Counts all queues, because for one queue SQLite would read every job that the queue has ever had.
_COUNT_ACTIVE = sa.select(jobs.c.queue, sa.func.count()).where(is_active).group_by(jobs.c.queue)
_PRUNABLE = (
    sa.select(jobs.c.id)
    .join(executions, executions.c.id == jobs.c.execution_id)
    .where(
        jobs.c.finished_at < sa.bindparam("before"),
        executions.c.state.not_in([ExecutionState.WAITING.value, ExecutionState.RUNNING.value]),
    )
    .order_by(jobs.c.finished_at)
    .limit(_PRUNE_BATCH)
    .with_for_update(of=jobs, skip_locked=True)
)
_REMOVE_LOGS = sa.delete(job_logs).where(job_logs.c.job_id.in_(sa.bindparam("ids", expanding=True)))
_REMOVE = sa.delete(jobs).where(jobs.c.id.in_(sa.bindparam("ids", expanding=True)))


class SqlJobAdmin(JobAdmin):
    """Reads jobs of one database, and takes requests."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def find(self, job_id: JobId) -> Job | None:
        row = self._database.read(lambda connection: connection.execute(_FIND, {"id": job_id}).mappings().first())
        return job_from_row(row) if row else None

    @override
    def page(self, query: JobQuery, *, cursor: str | None, limit: int) -> Page[Job]:
        select = _LIST.order_by(jobs.c.id.desc()).limit(limit + 1)
        if cursor is not None:
            select = select.where(jobs.c.id < decode_cursor(cursor))
        if query.states:
            select = select.where(jobs.c.state.in_([state.value for state in query.states]))
        if query.since is not None:
            select = select.where(query.since <= sa.func.coalesce(jobs.c.finished_at, jobs.c.created_at))
        if query.id_part is not None:
            select = select.where(has_id_part(jobs.c.id, query.id_part))
        for name in ("queue", "automation", "execution_id"):
            if (value := getattr(query, name)) is not None:
                select = select.where(jobs.c[name] == value)
        rows = self._database.read(lambda connection: connection.execute(select).mappings().all())
        items = tuple(job_from_row(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].id) if len(rows) > limit else None)

    @override
    def queue_position(self, job: Job) -> QueuePosition | None:
        def work(connection: Connection) -> QueuePosition | None:
            queued = connection.execute(_QUEUED, {"id": job.id}).first()
            if queued is None:
                return None
            own = {"id": job.id, "queue": queued.queue, "rank": queued.rank}
            ahead = connection.execute(_COUNT_AHEAD, own).scalar_one()
            active = {row[0]: row[1] for row in connection.execute(_COUNT_ACTIVE)}
            return QueuePosition(ahead=ahead, active=active.get(queued.queue, 0))

        return self._database.read(work)

    @override
    def log_chunks(self, job_id: JobId, *, after: int, limit: int) -> tuple[LogChunk, ...]:
        return self._database.read(lambda connection: read_log(connection, job_id, after=after, limit=limit))

    @override
    def request_stop(self, job_id: JobId, requested_by: str, now: datetime) -> Job:
        def work(connection: Connection) -> Job:
            execution_id = connection.execute(_EXECUTION_ID, {"id": job_id}).scalar_one_or_none()
            if execution_id is None:
                raise NotFound(f"there is no job {job_id!r}; see `upshot jobs list`")
            lock_executions(connection, [execution_id])
            job = job_from_row(connection.execute(_LOCK, {"id": job_id}).mappings().one())
            after = request_stop(job, requested_by, now)
            if after != job:
                update_jobs(connection, [after])
            if after.state.is_final:
                wake_executions(connection, {execution_id: now})
            return after

        return self._database.write(work)

    @override
    def prune(self, *, finished_before: datetime) -> int:
        def work(connection: Connection) -> int:
            job_ids = connection.execute(_PRUNABLE, {"before": finished_before}).scalars().all()
            if job_ids:
                connection.execute(_REMOVE_LOGS, {"ids": job_ids})
                connection.execute(_REMOVE, {"ids": job_ids})
            return len(job_ids)

        # In small transactions, so that other writers do not wait long.
        total = removed = self._database.write(work)
        while removed == _PRUNE_BATCH:
            time.sleep(_PRUNE_PAUSE_SECONDS)
            removed = self._database.write(work)
            total += removed
        return total
