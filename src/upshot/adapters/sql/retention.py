"""
Remove old rows in SQL.

A batch is chosen by a read in the order of ids, which are times, and then deleted by its ids. The DELETE checks every
condition again, because another process may have retried an execution meanwhile. Rows that are kept cost a read only,
and a batch reads few of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import (
    destinations,
    events,
    executions,
    file_faults,
    history,
    is_running,
    is_waiting,
    jobs,
    receipts,
    workers,
)
from upshot.domain.event import EventKind
from upshot.domain.execution import ExecutionState
from upshot.ids import ExecutionId, first_id
from upshot.ports.retention import Kept, Removed, RetentionStore


def _none_is(table: sa.FromClause, *conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """
    Return the condition that no row of the table meets all conditions.

    It looks each row up in an index. For a NOT EXISTS, PostgreSQL may merge two indexes instead. It would then read the
    second one from its beginning for every batch, which takes longer and longer.
    """
    found = sa.select(sa.literal_column("1", sa.Integer)).select_from(table).where(*conditions).limit(1)
    return found.scalar_subquery().is_(None)


_before: sa.BindParameter[Any] = sa.bindparam("before")
_is_unfinished = sa.or_(is_waiting, is_running)
_later = events.alias("later")
_is_not_last_of_alias = sa.or_(
    events.c.kind.not_in([EventKind.ALIAS_ADDED.value, EventKind.ALIAS_REMOVED.value]),
    sa.exists().where(
        _later.c.subject_base == events.c.subject_base,
        _later.c.alias == events.c.alias,
        _later.c.alias.is_not(None),
        _later.c.id > events.c.id,
    ),
)
#: By kind: the column whose values are the ids, the prefix of the ids (None: not times), and the conditions.
_KINDS: dict[Kept, tuple[sa.Column[Any], str | None, sa.ColumnElement[bool]]] = {
    Kept.RECEIPTS: (
        receipts.c.execution_id,
        "exe",
        sa.and_(
            receipts.c.started_at < _before,
            _none_is(executions, executions.c.id == receipts.c.execution_id, _is_unfinished),
        ),
    ),
    Kept.EXECUTIONS: (
        executions.c.id,
        "exe",
        sa.and_(
            # Not IN the final states, for which SQLite would read the index of states instead of the order of ids.
            executions.c.state.not_in([state.value for state in ExecutionState if not state.is_final]),
            executions.c.finished_at < _before,
            _none_is(jobs, jobs.c.execution_id == executions.c.id),
        ),
    ),
    Kept.EVENTS: (
        events.c.id,
        "evt",
        sa.and_(
            events.c.time < _before,
            events.c.matched_at.is_not(None),
            _none_is(executions, executions.c.event_id == events.c.id),
            _is_not_last_of_alias,
        ),
    ),
    Kept.HISTORY: (history.c.id, "his", history.c.time < _before),
    Kept.WORKERS: (workers.c.id, None, workers.c.seen_at < _before),
    Kept.DESTINATIONS: (destinations.c.worker_id, None, destinations.c.seen_at < _before),
    Kept.FAULTS: (file_faults.c.id, "flt", file_faults.c.until < _before),
}
WINDOW = 1_000  # ids that one batch looks at. Any number of them may have to be kept


def _select_window(column: sa.Column[Any], prefix: str | None) -> sa.Select[Any, int]:
    """Return the statement for the last id of the next window, and how many ids the window has."""
    until = [column < sa.bindparam("end_id")] if prefix else []
    ids = sa.select(column).distinct().where(column > sa.bindparam("after_id"), *until)
    window = ids.order_by(column).limit(sa.bindparam("window")).subquery()
    return sa.select(sa.func.max(window.c[column.name]), sa.func.count()).select_from(window)


_SELECT_WINDOW = {kept: _select_window(column, prefix) for kept, (column, prefix, _) in _KINDS.items()}
_SELECT = {
    kept: sa.select(column)
    .distinct()
    .where(column > sa.bindparam("after_id"), column <= sa.bindparam("until_id"), condition)
    .order_by(column)
    .limit(sa.bindparam("limit"))
    for kept, (column, _, condition) in _KINDS.items()
}
_DELETE = {
    kept: sa.delete(column.table).where(column.in_(sa.bindparam("ids", expanding=True)), condition)
    for kept, (column, _, condition) in _KINDS.items()
}
_DELETE_EXECUTIONS = _DELETE[Kept.EXECUTIONS].returning(executions.c.id)
_DELETE_RECEIPTS = sa.delete(receipts).where(receipts.c.execution_id.in_(sa.bindparam("ids", expanding=True)))

_has_chain = events.c.document.not_like('%"chain":[]%')
_UNFINISHED_EVENTS = (
    sa.select(events.c.document).where(events.c.matched_at.is_(None), _has_chain),
    *(
        sa.select(events.c.document).join(executions, executions.c.event_id == events.c.id).where(condition, _has_chain)
        for condition in (is_waiting, is_running)
    ),
)


class SqlRetention(RetentionStore):
    """`RetentionStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def causes_of_unfinished(self) -> frozenset[ExecutionId]:
        def work(connection: Connection) -> frozenset[ExecutionId]:
            return frozenset(
                cause["execution_id"]
                for select in _UNFINISHED_EVENTS
                for document in connection.execute(select).yield_per(500).scalars()
                for cause in document["chain"]
            )

        return self._database.read(work)

    @override
    def remove(
        self, kept: Kept, *, before: datetime, after_id: str, limit: int, except_for: Collection[ExecutionId] = ()
    ) -> Removed:
        values: dict[str, Any] = {"before": before, "after_id": after_id, "limit": limit, "window": WINDOW}
        if prefix := _KINDS[kept][1]:
            values["end_id"] = first_id(prefix, before)

        def find(connection: Connection) -> tuple[Sequence[str], str | None]:
            """Return ids to remove, and the last id that this batch is about."""
            until_id, count = connection.execute(_SELECT_WINDOW[kept], values).one()
            if not count:
                return (), None
            found = connection.execute(_SELECT[kept], values | {"until_id": until_id}).scalars().all()
            if len(found) == limit:
                return found, found[-1]
            return found, until_id if count == WINDOW else None

        found, last_id = self._database.read(find)
        ids = [found_id for found_id in found if found_id not in except_for]
        rows = self._database.write(lambda connection: _remove(connection, kept, ids, before)) if ids else 0
        return Removed(rows, last_id)


def _remove(connection: Connection, kept: Kept, ids: Sequence[str], before: datetime) -> int:
    if connection.dialect.name == "postgresql":
        # No mutation waits until the disk has this commit. If the server crashes, the rows are removed again.
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
    values = {"ids": ids, "before": before}
    if kept is not Kept.EXECUTIONS:
        return connection.execute(_DELETE[kept], values).rowcount
    removed = connection.execute(_DELETE_EXECUTIONS, values).scalars().all()
    connection.execute(_DELETE_RECEIPTS, {"ids": removed})
    return len(removed)
