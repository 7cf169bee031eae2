"""
Writes that concern both executions and jobs.

A transaction that locks both locks executions before jobs, and each of them in the order of their ids. So no two
writers ever wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from upshot.adapters.serialization.jobs import job_to_row
from upshot.adapters.sql.schema import executions, is_finished, jobs
from upshot.domain.execution import ExecutionState
from upshot.domain.job import Job
from upshot.ids import ExecutionId, JobId
from upshot.ports.jobs import END_OF_EXECUTION

_INSERT = {
    "sqlite": sqlite.insert(jobs).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(jobs).on_conflict_do_nothing(),
}
_EMPTY_LOG = {"log_number": 0, "log_bytes": 0}
_LOCK_EXECUTIONS = (
    sa.select(executions.c.id)
    .where(executions.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(executions.c.id)
    .with_for_update()
)
_WAKE = (
    sa.update(executions)
    .where(
        executions.c.id == sa.bindparam("b_id"),
        executions.c.state == ExecutionState.WAITING.value,
        executions.c.due_at.is_(None),
    )
    .values(due_at=sa.bindparam("b_due_at"), notified_at=None)
)
_FINISHED = sa.select(jobs.c.execution_id, jobs.c.finished_at).where(
    jobs.c.id.in_(sa.bindparam("ids", expanding=True)), is_finished
)
_LOCK_UNFINISHED = (
    sa.select(jobs.c.id, jobs.c.execution_id)
    .where(
        jobs.c.execution_id.in_(sa.bindparam("ids", expanding=True)),
        sa.not_(is_finished),
        jobs.c.stop_requested_at.is_(None),
    )
    .order_by(jobs.c.id)
    .with_for_update()
)
_REQUEST_STOP = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("b_id"))
    .values(stop_requested_at=sa.bindparam("b_now"), stop_requested_by=END_OF_EXECUTION)
)
# Columns that users and other workers can change. Only the worker that holds the job writes its results.
_CHANGEABLE = (
    "state",
    "failure",
    "reason",
    "due_at",
    "finished_at",
    "machine",
    "engine_id",
    "lease_owner_id",
    "lease_until",
    "seen_at",
    "fence",
    "stop_requested_at",
    "stop_requested_by",
)
_UPDATE = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("b_id"))
    .values({name: sa.bindparam(f"b_{name}") for name in _CHANGEABLE})
)


def insert_jobs(connection: Connection, queued: Iterable[Job]) -> None:
    """Insert jobs. A job whose id exists stays as it is."""
    rows = [job_to_row(job) | _EMPTY_LOG for job in sorted(queued, key=lambda job: job.id)]
    if rows:
        connection.execute(_INSERT[connection.dialect.name], rows)


def update_jobs(connection: Connection, changed: Iterable[Job]) -> None:
    """Write the state of jobs whose rows are locked, but not the results of an attempt."""
    rows = [job_to_row(job) for job in changed]
    if rows:
        connection.execute(_UPDATE, [{f"b_{name}": row[name] for name in ("id", *_CHANGEABLE)} for row in rows])


def request_stop_for_ended(connection: Connection, ended_at: Mapping[ExecutionId, datetime]) -> None:
    """Request a stop of the unfinished jobs of these executions, whose rows are locked."""
    rows = connection.execute(_LOCK_UNFINISHED, {"ids": sorted(ended_at)}).all() if ended_at else ()
    if rows:
        connection.execute(_REQUEST_STOP, [{"b_id": row.id, "b_now": ended_at[row.execution_id]} for row in rows])


def wake_if_finished(connection: Connection, job_ids: Sequence[JobId]) -> None:
    """Wake the executions of those jobs that have ended. The rows of the executions are locked."""
    if job_ids:
        rows = connection.execute(_FINISHED, {"ids": list(job_ids)})
        wake_executions(connection, {row.execution_id: row.finished_at for row in rows})


def lock_executions(connection: Connection, execution_ids: Iterable[ExecutionId]) -> None:
    """
    Lock executions that are about to be woken, before any job is locked.

    Running executions are locked too: their worker may be about to write that they wait for the job.
    """
    if ids := sorted(execution_ids):
        connection.execute(_LOCK_EXECUTIONS, {"ids": ids})


def wake_executions(connection: Connection, due_at: Mapping[ExecutionId, datetime]) -> None:
    """Make the executions due that wait without a due time. Leave the others unchanged."""
    if due_at:
        connection.execute(_WAKE, [{"b_id": key, "b_due_at": due_at[key]} for key in sorted(due_at)])
