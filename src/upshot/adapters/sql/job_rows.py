"""
What executions and jobs do to each other's rows.

Whoever locks both locks executions before jobs, and each in the order of their ids, so that no two
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
_UNFINISHED_OF = (
    sa.select(jobs.c.id, jobs.c.execution_id)
    .where(
        jobs.c.execution_id.in_(sa.bindparam("ids", expanding=True)),
        sa.not_(is_finished),
        jobs.c.stop_requested_at.is_(None),
    )
    .order_by(jobs.c.id)
    .with_for_update()
)
_ASK = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("b_id"))
    .values(stop_requested_at=sa.bindparam("b_now"), stop_requested_by=END_OF_EXECUTION)
)
# Of what changes without a worker's doing: everything but what it has found out.
_MOVED = (
    *("state", "failure", "reason", "due_at", "finished_at", "machine", "engine_id"),
    *("lease_owner", "lease_until", "seen_at", "fence", "stop_requested_at", "stop_requested_by"),
)
_CHANGE = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("b_id"))
    .values({name: sa.bindparam(f"b_{name}") for name in _MOVED})
)


def insert_jobs(connection: Connection, queued: Iterable[Job]) -> None:
    """Insert jobs as part of a transaction; one whose id exists is left as it is."""
    rows = [job_to_row(job) | _EMPTY_LOG for job in sorted(queued, key=lambda job: job.id)]
    if rows:
        connection.execute(_INSERT[connection.dialect.name], rows)


def change_jobs(connection: Connection, changed: Iterable[Job]) -> None:
    """Write how these jobs stand, whose rows are locked; not what belongs to a try."""
    rows = [job_to_row(job) for job in changed]
    if rows:
        connection.execute(_CHANGE, [{f"b_{name}": row[name] for name in ("id", *_MOVED)} for row in rows])


def ask_jobs_of(connection: Connection, ended: Mapping[str, datetime]) -> None:
    """Ask the unfinished jobs of these executions to stop, whose rows are locked; the moment of their end by id."""
    rows = connection.execute(_UNFINISHED_OF, {"ids": sorted(ended)}).all() if ended else ()
    if rows:
        connection.execute(_ASK, [{"b_id": row.id, "b_now": ended[row.execution_id]} for row in rows])


def wake_if_finished(connection: Connection, ids: Sequence[str]) -> None:
    """Wake the executions of those of the jobs that have ended; the rows of the executions are locked."""
    if ids:
        rows = connection.execute(_FINISHED, {"ids": list(ids)})
        wake(connection, {row.execution_id: row.finished_at for row in rows})


def lock_executions(connection: Connection, ids: Iterable[str]) -> None:
    """
    Lock executions that are to be woken, before any job is locked.

    Also those that a worker holds: it may be about to write that its execution waits for the job.
    """
    if wanted := sorted(ids):
        connection.execute(_LOCK_EXECUTIONS, {"ids": wanted})


def wake(connection: Connection, due: Mapping[str, datetime]) -> None:
    """Make executions due that wait without a due time; since when, by id."""
    if due:
        connection.execute(_WAKE, [{"b_id": name, "b_due_at": due[name]} for name in sorted(due)])
