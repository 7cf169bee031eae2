"""Executions and receipts in SQL: batches in, batches out, every write under its fence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from upshot.adapters.cursor import after_cursor, make_cursor
from upshot.adapters.serialization.executions import dump_receipt, dump_steps, load_receipt, load_step
from upshot.adapters.sql.bulk import change_many, insert_many
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import insert_events
from upshot.adapters.sql.job_rows import ask_jobs_of, insert_jobs, wake_if_finished
from upshot.adapters.sql.schema import events, executions, receipts
from upshot.domain.execution import Execution, ExecutionState, Receipt
from upshot.errors import NotFound
from upshot.ports.executions import Admission, Claim, Due, ExecutionQuery, ExecutionUpdate
from upshot.ports.paging import Page

_WAITING = ExecutionState.WAITING.value
_RUNNING = ExecutionState.RUNNING.value

# Statements are made once: making one costs as much as running it. `ids` is a list, expanded when it runs.
_AMONG = executions.c.id.in_(sa.bindparam("ids", expanding=True))
_MARK_MATCHED = (
    sa.update(events)
    .where(events.c.id.in_(sa.bindparam("ids", expanding=True)), events.c.matched_at.is_(None))
    .values(matched_at=sa.bindparam("now"))
)
_FREE = (
    sa.select(executions)
    .where(
        _AMONG,
        sa.or_(
            sa.and_(executions.c.state == _WAITING, executions.c.due_at <= sa.bindparam("now")),
            sa.and_(executions.c.state == _RUNNING, executions.c.lease_until < sa.bindparam("now")),
        ),
    )
    .with_for_update(skip_locked=True)
)
_LEASE = (
    sa.update(executions)
    .where(_AMONG)
    .values(
        state=_RUNNING,
        reason=None,
        due_at=None,
        lease_owner=sa.bindparam("owner"),
        lease_until=sa.bindparam("until"),
        fence=executions.c.fence + 1,
        notified_at=None,
    )
)
_RENEW = (
    sa.update(executions)
    .where(_AMONG, executions.c.lease_owner == sa.bindparam("owner"), executions.c.state == _RUNNING)
    .values(lease_until=sa.bindparam("until"))
)
_UNHEARD = sa.or_(executions.c.notified_at.is_(None), executions.c.notified_at < sa.bindparam("rung_before"))
_DUE = (
    sa.select(executions.c.id, executions.c.notified_at)
    .where(executions.c.state == _WAITING, executions.c.due_at <= sa.bindparam("now"), _UNHEARD)
    .order_by(executions.c.due_at)
    .limit(sa.bindparam("limit"))
)
_LOST = (
    sa.select(executions.c.id, executions.c.notified_at)
    .where(executions.c.state == _RUNNING, executions.c.lease_until < sa.bindparam("now"), _UNHEARD)
    .order_by(executions.c.lease_until)
    .limit(sa.bindparam("limit"))
)
_LOCKED = tuple(select.with_for_update(skip_locked=True) for select in (_DUE, _LOST))
_RING = sa.update(executions).where(_AMONG).values(notified_at=sa.bindparam("now"))
# In one order everywhere, so that two workers never wait for each other in a circle.
_FENCES = sa.select(executions.c.id, executions.c.fence).where(_AMONG).order_by(executions.c.id).with_for_update()
_CHANGED = ("state", "reason", "due_at", "finished_at", "lease_owner", "lease_until", "steps")
_ROW = ("id", "automation", "revision", "event_id", "created_at", "fence", *_CHANGED)
_INSERT = insert_many(executions, _ROW, returning="id")
_CHANGE = change_many(executions, _ROW, changed=_CHANGED, cleared=("notified_at",), same="fence")
_INSERT_RECEIPTS = insert_many(receipts, ("execution_id", "step_id", "attempt", "state", "started_at", "details"))


def _row(execution: Execution) -> dict[str, Any]:
    return {
        "id": execution.id,
        "automation": execution.automation,
        "revision": execution.revision,
        "event_id": execution.event_id,
        "state": execution.state.value,
        "reason": execution.reason,
        "due_at": execution.due_at,
        "created_at": execution.created_at,
        "finished_at": execution.finished_at,
        "lease_owner": execution.lease_owner,
        "lease_until": execution.lease_until,
        "fence": execution.fence,
        "steps": dump_steps(execution.steps),
    }


def _execution(row: RowMapping) -> Execution:
    return Execution(
        id=row["id"],
        automation=row["automation"],
        revision=row["revision"],
        event_id=row["event_id"],
        state=ExecutionState(row["state"]),
        reason=row["reason"],
        due_at=row["due_at"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        lease_owner=row["lease_owner"],
        lease_until=row["lease_until"],
        fence=row["fence"],
        steps=tuple(load_step(form) for form in row["steps"]),
    )


class SqlExecutions:
    """`ExecutionStore` and `ExecutionDesk` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- ExecutionStore ---------------------------------------------------------------------------

    def admit(self, admissions: Sequence[Admission], now: datetime) -> frozenset[str]:
        """Insert the executions of a batch and mark its events as matched; returns the ids that are new."""
        rows = [_row(one) for admission in admissions for one in admission.executions]
        rows.sort(key=lambda row: str(row["id"]))  # in one order everywhere, as in _FENCES
        matched = {"ids": sorted(admission.event_id for admission in admissions), "now": now}
        caused = [event for admission in admissions for event in admission.events]

        def work(connection: Connection) -> frozenset[str]:
            new = frozenset(_INSERT.execute(connection, rows).scalars()) if rows else frozenset[str]()
            connection.execute(_MARK_MATCHED, matched)
            if accepted := [event for event in caused if event.chain[-1].execution_id in new]:
                insert_events(connection, accepted, now)
            return new

        return self._database.write(work)

    def claim(self, ids: Collection[str], *, owner: str, now: datetime, until: datetime) -> tuple[Claim, ...]:
        """Lease those of the executions that are due or whose lease has run out."""

        def work(connection: Connection) -> tuple[Claim, ...]:
            free = connection.execute(_FREE, {"ids": list(ids), "now": now}).mappings()
            found = [_execution(row) for row in free]
            if found:
                connection.execute(_LEASE, {"ids": [one.id for one in found], "owner": owner, "until": until})
            return tuple(_claim(one, owner, until) for one in found)

        return self._database.write(work)

    def record(self, progress: Sequence[ExecutionUpdate]) -> frozenset[str]:
        """Write states and receipts of a batch; returns the ids whose state was refused."""
        kept = [_receipt_row(receipt) for one in progress for receipt in one.receipts]
        changes = {one.execution.id: _row(one.execution) for one in progress}

        def work(connection: Connection) -> frozenset[str]:
            if kept:
                _INSERT_RECEIPTS.execute(connection, kept)
            standing = {row.id: row.fence for row in connection.execute(_FENCES, {"ids": list(changes)})}
            held = {name for name, change in changes.items() if standing.get(name) == change["fence"]}
            if held:
                _CHANGE.execute(connection, [changes[name] for name in sorted(held)])
            for one in progress:
                if one.events and one.execution.id in held:
                    insert_events(connection, one.events, one.events[0].time)
            _see_to_jobs(connection, [one for one in progress if one.execution.id in held])
            return frozenset(changes.keys() - held)

        return self._database.write(work)

    def renew(self, ids: Collection[str], *, owner: str, until: datetime) -> None:
        """Prolong the leases that the owner still holds."""
        if ids:
            held = {"ids": list(ids), "owner": owner, "until": until}
            self._database.write(lambda connection: connection.execute(_RENEW, held) and None)

    def take_due(self, *, now: datetime, notified_before: datetime, limit: int) -> tuple[Due, ...]:
        """Take for ringing: executions that are due, or whose lease has run out; marked as rung now."""
        asked = {"now": now, "rung_before": notified_before, "limit": limit}

        def any_due(connection: Connection) -> bool:
            return any(connection.execute(select, asked | {"limit": 1}).first() for select in (_DUE, _LOST))

        def work(connection: Connection) -> tuple[Due, ...]:
            found = [row for select in _LOCKED for row in connection.execute(select, asked)][:limit]
            connection.execute(_RING, {"ids": [row.id for row in found], "now": now})
            return tuple(Due(row.id, notified_before=row.notified_at is not None) for row in found)

        # Most sweeps find nothing: they shall not take SQLite's one writing place.
        return self._database.write(work) if self._database.read(any_due) else ()

    # --- ExecutionDesk ----------------------------------------------------------------------------

    def find(self, execution_id: str) -> tuple[Execution, tuple[Receipt, ...]] | None:
        """One execution with all its receipts, in the order of their start."""

        def work(connection: Connection) -> tuple[Execution, tuple[Receipt, ...]] | None:
            row = connection.execute(sa.select(executions).where(executions.c.id == execution_id)).mappings().first()
            if row is None:
                return None
            kept = sa.select(receipts).where(receipts.c.execution_id == execution_id)
            kept = kept.order_by(receipts.c.started_at, receipts.c.attempt)
            return _execution(row), tuple(_receipt(one) for one in connection.execute(kept).mappings())

        return self._database.read(work)

    def page(self, query: ExecutionQuery, *, cursor: str | None, limit: int) -> Page[Execution]:
        """Executions, newest event first."""
        select = sa.select(executions).order_by(executions.c.id.desc()).limit(limit + 1)
        if cursor is not None:
            select = select.where(executions.c.id < after_cursor(cursor))
        if query.event_id is not None:
            select = select.where(executions.c.event_id == query.event_id)
        if query.automation is not None:
            select = select.where(executions.c.automation == query.automation)
        if query.state is not None:
            select = select.where(executions.c.state == query.state.value)
        rows = self._database.read(lambda connection: connection.execute(select).mappings().all())
        items = tuple(_execution(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].id) if len(rows) > limit else None)

    def amend(self, execution_id: str, change: Callable[[Execution], Execution]) -> Execution:
        """Change one execution in one transaction; its fence grows."""
        select = sa.select(executions).where(executions.c.id == execution_id).with_for_update()

        def work(connection: Connection) -> Execution:
            row = connection.execute(select).mappings().first()
            if row is None:
                raise NotFound(f"there is no execution {execution_id!r}; see `upshot executions list`")
            before = _execution(row)
            after = replace(change(before), fence=before.fence + 1)
            connection.execute(
                sa.update(executions).where(executions.c.id == execution_id).values(**_row(after), notified_at=None)
            )
            if ended_at := after.finished_at or before.finished_at:  # retried: it shall have new jobs, not both
                ask_jobs_of(connection, {execution_id: ended_at})
            return after

        return self._database.write(work)

    def expire(self, owner: str, now: datetime) -> int:
        """End the leases of a worker that is known to be dead; returns how many."""
        statement = (
            sa.update(executions)
            .where(executions.c.state == _RUNNING, executions.c.lease_owner == owner, executions.c.lease_until > now)
            .values(lease_until=now)
        )
        return self._database.write(lambda connection: connection.execute(statement).rowcount)

    def prune(self, *, receipts_before: datetime) -> int:
        """Remove receipts older than that of executions that are final; returns how many."""
        final = sa.select(executions.c.id).where(executions.c.state.not_in([_WAITING, _RUNNING]))
        statement = sa.delete(receipts).where(
            receipts.c.started_at < receipts_before, receipts.c.execution_id.in_(final)
        )
        return self._database.write(lambda connection: connection.execute(statement).rowcount)


def _see_to_jobs(connection: Connection, progress: Sequence[ExecutionUpdate]) -> None:
    """Queue new jobs; ask those of executions that have ended to stop; let nothing wait for a job that has ended."""
    insert_jobs(connection, (job for one in progress for job in one.jobs))
    with_jobs = [one.execution for one in progress if any(step.job_id for step in one.execution.steps)]
    ask_jobs_of(connection, {one.id: one.finished_at for one in with_jobs if one.finished_at})
    wake_if_finished(connection, sorted(job for one in with_jobs if (job := one.awaited_job_id)))


def _claim(before: Execution, owner: str, until: datetime) -> Claim:
    """What `_LEASE` makes of an execution."""
    leased = replace(
        before,
        state=ExecutionState.RUNNING,
        reason=None,
        due_at=None,
        lease_owner=owner,
        lease_until=until,
        fence=before.fence + 1,
    )
    return Claim(leased, lost_by_worker_id=before.lease_owner if before.state is ExecutionState.RUNNING else None)


def _receipt_row(receipt: Receipt) -> dict[str, Any]:
    return {
        "execution_id": receipt.execution_id,
        "step_id": receipt.step_id,
        "attempt": receipt.attempt,
        "state": receipt.state.value,
        "started_at": receipt.started_at,
        "details": dump_receipt(receipt),
    }


def _receipt(row: RowMapping) -> Receipt:
    return load_receipt(
        row["details"],
        execution_id=row["execution_id"],
        step_id=row["step_id"],
        attempt=row["attempt"],
        state=row["state"],
        started_at=row["started_at"],
    )
