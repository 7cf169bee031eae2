"""The workers that are alive and the backlog, in SQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import (
    events,
    executions,
    is_active,
    is_final,
    is_queued,
    is_running,
    is_waiting,
    jobs,
    workers,
)
from upshot.clock import stopwatch
from upshot.domain.execution import ExecutionState
from upshot.domain.job import JobState
from upshot.errors import Unavailable
from upshot.ids import WorkerId
from upshot.ports.workers import Backlog, BacklogStore, Totals, WaitKind, WorkerRecord, WorkerStore

log = structlog.get_logger("upshot.database")

T = TypeVar("T")

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
    "secrets",
)


_count = sa.func.count()
_UNMATCHED = sa.select(_count, sa.func.min(events.c.published_at)).where(events.c.matched_at.is_(None))
_DUE = sa.select(_count, sa.func.min(executions.c.due_at)).where(is_waiting, executions.c.due_at <= sa.bindparam("now"))
_WAITING_EXECUTIONS = sa.select(_count).select_from(executions).where(is_waiting)
# Each of these counts entries of one index. `automation;` sorts right after every text that begins with `automation:`.
_WAITING_FOR_TIME = sa.select(_count).select_from(executions).where(is_waiting, executions.c.due_at.is_not(None))
_WAITING_FOR_ROOM = sa.select(_count).select_from(executions).where(executions.c.waits_for.is_not(None))
_WAITING_FOR_AUTOMATION, _HELD = (
    _WAITING_FOR_ROOM.where(executions.c.waits_for >= f"{prefix}:", executions.c.waits_for < f"{prefix};")
    for prefix in ("automation", "disabled")
)
_RUNNING_EXECUTIONS = sa.select(_count).select_from(executions).where(is_running)
_QUEUED_JOBS = sa.select(jobs.c.queue, _count).where(is_queued).group_by(jobs.c.queue)
_ACTIVE_JOBS = sa.select(jobs.c.state, _count).where(is_active).group_by(jobs.c.state)
_EVENTS = sa.select(_count).select_from(events)
_EXECUTIONS_BY_STATE = sa.select(executions.c.state, _count).where(is_final).group_by(executions.c.state)
_JOBS_BY_STATE = sa.select(jobs.c.state, _count).group_by(jobs.c.state)
_MAX_WAIT_SECONDS = 0.02  # for a slow count


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
        return tuple(
            WorkerRecord(
                **{
                    **row,
                    "queues": tuple(row["queues"]),
                    "secrets": None if row["secrets"] is None else tuple(row["secrets"]),
                }
            )
            for row in rows
        )


class SqlBacklog(BacklogStore):
    """`BacklogStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._slow_counts = SlowCount(lambda: database.read(_count_all))

    @override
    def measure(self, now: datetime) -> Backlog:
        def work(connection: Connection) -> Backlog:
            unmatched_events, oldest_unmatched_at = connection.execute(_UNMATCHED).one()
            due_executions, oldest_due_at = connection.execute(_DUE, {"now": now}).one()
            return Backlog(unmatched_events, oldest_unmatched_at, due_executions, oldest_due_at)

        return self._database.read(work)

    @override
    def count(self) -> Totals:
        def work(connection: Connection) -> Totals:
            queued_jobs = _counts(connection, _QUEUED_JOBS)
            unfinished_jobs = {JobState.QUEUED.value: sum(queued_jobs.values())} | _counts(connection, _ACTIVE_JOBS)
            waiting = connection.execute(_WAITING_EXECUTIONS).scalar_one()
            return Totals(
                events=None,
                executions={
                    ExecutionState.WAITING.value: waiting,
                    ExecutionState.RUNNING.value: connection.execute(_RUNNING_EXECUTIONS).scalar_one(),
                },
                jobs={state.value: unfinished_jobs.get(state.value, 0) for state in JobState if not state.is_final},
                queued_jobs=queued_jobs,
                waiting=_waiting_by_kind(connection, waiting),
            )

        totals = self._database.read(work)
        slow = self._slow_counts.latest()
        if slow is None:
            return totals
        executions_by_state = {state.value: slow.executions.get(state.value, 0) for state in ExecutionState}
        jobs_by_state = {state.value: slow.jobs.get(state.value, 0) for state in JobState}
        return replace(
            totals,
            events=slow.events,
            executions=executions_by_state | dict(totals.executions),
            jobs=jobs_by_state | dict(totals.jobs),
        )


def _waiting_by_kind(connection: Connection, waiting: int) -> dict[WaitKind, int]:
    statements = (_WAITING_FOR_TIME, _WAITING_FOR_ROOM, _WAITING_FOR_AUTOMATION, _HELD)
    for_time, for_room, for_automation, held = (connection.execute(statement).scalar_one() for statement in statements)
    return {
        WaitKind.TIME: for_time,
        WaitKind.DESTINATION: for_room - for_automation - held,
        WaitKind.AUTOMATION: for_automation,
        WaitKind.DISABLED: held,
        WaitKind.JOB: max(0, waiting - for_time - for_room),
    }


def _count_all(connection: Connection) -> Totals:
    return Totals(
        events=connection.execute(_EVENTS).scalar_one(),
        executions=_counts(connection, _EXECUTIONS_BY_STATE),
        jobs=_counts(connection, _JOBS_BY_STATE),
        queued_jobs={},
    )


def _counts(connection: Connection, select: sa.Select[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(select)}


class SlowCount(Generic[T]):
    """
    The result of a count that may take long.

    The count runs in a thread of its own. A caller waits for it briefly, so that the result of a fast count is
    current, and gets the previous result otherwise. A slow count is repeated so rarely that it takes at most 1 % of
    the time.

    Args:
        count: Counts. If it raises Unavailable, the previous result stays.
    """

    def __init__(self, count: Callable[[], T]) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._result: T | None = None
        self._is_slow = False
        self._next_at = 0.0
        self._thread: threading.Thread | None = None

    def latest(self) -> T | None:
        """Return the latest result, or None if the first count is not finished."""
        with self._lock:
            if self._thread is None and stopwatch() >= self._next_at:
                self._thread = threading.Thread(target=self._run, name="count", daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None and not self._is_slow:
            thread.join(_MAX_WAIT_SECONDS)
        return self._result

    def _run(self) -> None:
        started = stopwatch()
        try:
            self._result = self._count()
        except Unavailable as error:
            log.warning("count.unavailable", error=str(error))
        finally:
            now = stopwatch()
            with self._lock:
                self._is_slow = now - started > _MAX_WAIT_SECONDS
                if self._is_slow:
                    self._next_at = now + 100 * (now - started)
                self._thread = None
