"""The workers that are alive and the backlog, in SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import events, executions, is_queued, jobs, workers
from upshot.domain.execution import ExecutionState
from upshot.domain.job import JobState
from upshot.ids import WorkerId
from upshot.ports.workers import Backlog, BacklogStore, WorkerRecord, WorkerStore

_COLUMNS = (
    "id",
    "host",
    "pid",
    "started_at",
    "seen_at",
    "in_progress",
    "stream_read_at",
    "automations",
    "machine",
    "queues",
    "engines",
    "clock_skew_seconds",
)


class SqlWorkers(WorkerStore):
    """`WorkerStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = (sqlite.insert if database.is_sqlite else postgresql.insert)(workers)
        changes = {name: insert.excluded[name] for name in _COLUMNS if name != "id"}
        self._upsert = insert.on_conflict_do_update(index_elements=["id"], set_=changes)

    @override
    def heartbeat(self, worker: WorkerRecord) -> None:
        row = {name: getattr(worker, name) for name in _COLUMNS}
        self._database.write(lambda connection: connection.execute(self._upsert, row))

    @override
    def deregister(self, worker_id: WorkerId) -> None:
        statement = sa.delete(workers).where(workers.c.id == worker_id)
        self._database.write(lambda connection: connection.execute(statement))

    @override
    def list(self, *, seen_since: datetime) -> tuple[WorkerRecord, ...]:
        select = sa.select(workers).where(workers.c.seen_at >= seen_since).order_by(workers.c.started_at)
        rows = self._database.read(lambda connection: connection.execute(select).mappings().all())
        return tuple(WorkerRecord(**{**row, "queues": tuple(row["queues"])}) for row in rows)


class SqlBacklog(BacklogStore):
    """`BacklogStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def measure(self, now: datetime) -> Backlog:
        unmatched = sa.select(sa.func.count(), sa.func.min(events.c.published_at)).where(events.c.matched_at.is_(None))
        due = sa.select(sa.func.count(), sa.func.min(executions.c.due_at)).where(
            executions.c.state == ExecutionState.WAITING.value, executions.c.due_at <= now
        )
        executions_by_state = sa.select(executions.c.state, sa.func.count()).group_by(executions.c.state)
        jobs_by_state = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        queued_by_queue = sa.select(jobs.c.queue, sa.func.count()).where(is_queued).group_by(jobs.c.queue)

        def work(connection: Connection) -> Backlog:
            unmatched_events, oldest_unmatched_at = connection.execute(unmatched).one()
            due_executions, oldest_due_at = connection.execute(due).one()
            execution_counts = _counts(connection, executions_by_state)
            job_counts = _counts(connection, jobs_by_state)
            return Backlog(
                events=connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one(),
                unmatched_events=unmatched_events,
                oldest_unmatched_at=oldest_unmatched_at,
                executions={state.value: execution_counts.get(state.value, 0) for state in ExecutionState},
                due_executions=due_executions,
                oldest_due_at=oldest_due_at,
                jobs={state.value: job_counts.get(state.value, 0) for state in JobState},
                queued_jobs=_counts(connection, queued_by_queue),
            )

        return self._database.read(work)


def _counts(connection: Connection, select: sa.Select[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(select)}
