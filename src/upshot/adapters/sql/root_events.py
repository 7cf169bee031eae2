"""
What one event has led to: a row of counters, and a warning if something was left out.

A transaction locks the row of a root event before it inserts executions or events, so concurrent transactions
count one after the other. A transaction that locks several rows locks them in the order of the events' ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from upshot.adapters.sql.schema import events, executions, root_events
from upshot.domain.execution import Execution
from upshot.execution.root_budget import counted_by_root, skip_over_budget, warning_text
from upshot.ids import EventId, ExecutionId
from upshot.ports.executions import Admission, RootBudget

_HAS_ID = root_events.c.event_id == sa.bindparam("b_event_id")
_LOCK = sa.select(root_events.c.executions).where(_HAS_ID).with_for_update()
# The count begins with the executions that answer the event itself, which were not counted when they were admitted.
_DIRECT = sa.select(sa.func.count()).where(executions.c.event_id == sa.bindparam("b_event_id")).scalar_subquery()
_NEW_ROW = sa.select(events.c.id, _DIRECT, sa.literal(0)).where(events.c.id == sa.bindparam("b_event_id"))
_COLUMNS = ["event_id", "executions", "events"]
_INSERT = {
    "sqlite": sqlite.insert(root_events).from_select(_COLUMNS, _NEW_ROW).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(root_events).from_select(_COLUMNS, _NEW_ROW).on_conflict_do_nothing(),
}
_SET_EXECUTIONS = sa.update(root_events).where(_HAS_ID).values(executions=sa.bindparam("b_executions"))
_ADD_EVENTS = (
    sa.update(root_events)
    .where(_HAS_ID, root_events.c.events + sa.bindparam("b_count") <= sa.bindparam("b_limit"))
    .values(events=root_events.c.events + sa.bindparam("b_count"))
)
_SET_WARNING = (
    sa.update(root_events).where(_HAS_ID, root_events.c.warning.is_(None)).values(warning=sa.bindparam("b_warning"))
)
_STORED = sa.select(executions.c.id).where(executions.c.id.in_(sa.bindparam("ids", expanding=True)))


def skip_executions_over_budget(
    connection: Connection, admissions: Sequence[Admission], now: datetime
) -> tuple[dict[ExecutionId, Execution], tuple[RootBudget, ...]]:
    """
    Count the new executions of these admissions.

    Returns:
        The executions over their budget, as skipped, by id; and the budgets that were exceeded for the first time.
    """
    skipped: dict[ExecutionId, Execution] = {}
    exhausted: list[RootBudget] = []
    for budget, counted in counted_by_root(admissions).items():
        used = _lock(connection, budget.root_event_id)
        if used is None:
            continue  # the root event was removed; the length of the chain is still limited
        # Read after the lock, because a concurrent transaction may have admitted the same event.
        ids = [execution.id for execution in counted]
        stored = frozenset(connection.execute(_STORED, {"ids": ids}).scalars()) if ids else frozenset()
        new = [execution for execution in counted if execution.id not in stored]
        over = skip_over_budget(budget, new, used=used, now=now)
        skipped |= over
        if admitted := len(new) - len(over):
            values = {"b_event_id": budget.root_event_id, "b_executions": used + admitted}
            connection.execute(_SET_EXECUTIONS, values)
        if over and set_warning(connection, budget.root_event_id, warning_text(budget)):
            exhausted.append(budget)
    return skipped, tuple(exhausted)


def count_events(connection: Connection, root_event_id: EventId, count: int, *, limit: int) -> bool:
    """Count events, or return False if there would be more than `limit`."""
    values = {"b_event_id": root_event_id, "b_count": count, "b_limit": limit}
    if connection.execute(_ADD_EVENTS, values).rowcount:
        return True
    if _lock(connection, root_event_id) is None:
        return True  # the root event was removed
    return connection.execute(_ADD_EVENTS, values).rowcount > 0


def set_warning(connection: Connection, root_event_id: EventId, warning: str) -> bool:
    """Store a warning, or return False if the event has one."""
    _lock(connection, root_event_id)
    return connection.execute(_SET_WARNING, {"b_event_id": root_event_id, "b_warning": warning}).rowcount > 0


def _lock(connection: Connection, root_event_id: EventId) -> int | None:
    """Lock the row of a root event, and return its number of executions. None: there is no such event."""
    values = {"b_event_id": root_event_id}
    used: int | None = connection.execute(_LOCK, values).scalar()
    if used is None:  # no row yet
        connection.execute(_INSERT[connection.dialect.name], values)
        used = connection.execute(_LOCK, values).scalar()
    return used
