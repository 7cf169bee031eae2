"""Executions and receipts in SQL. Reads and writes go in batches, and every write checks the fence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, RowMapping
from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, make_cursor
from upshot.adapters.serialization.executions import dump_receipt, dump_steps, load_receipt, load_step
from upshot.adapters.sql.bulk import insert_many, update_many
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import insert_events
from upshot.adapters.sql.job_rows import insert_jobs, request_stop_for_ended, wake_if_finished
from upshot.adapters.sql.root_events import set_warning, skip_executions_over_budget
from upshot.adapters.sql.schema import (
    events,
    executions,
    has_id_part,
    is_final,
    is_running,
    is_waiting,
    receipts,
)
from upshot.domain.execution import Execution, ExecutionState, Receipt
from upshot.errors import NotFound
from upshot.execution import transitions
from upshot.ids import EventId, ExecutionId, WorkerId, first_id
from upshot.ports.executions import (
    Admission,
    AdmissionResult,
    Answer,
    Claim,
    Due,
    ExecutionAdmin,
    ExecutionQuery,
    ExecutionStore,
    ExecutionUpdate,
    OrderedStep,
)
from upshot.ports.paging import Page

_NEWER_PAGE = 50
_AFTER_ALL_EVENTS = f"evt_{26 * 'z'}"
_WAITING = ExecutionState.WAITING.value
_RUNNING = ExecutionState.RUNNING.value
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # no lease ends before

# Statements are built once, because building one takes as long as executing it. `ids` is a list that expands on
# execution.
_HAS_ID = executions.c.id.in_(sa.bindparam("ids", expanding=True))
_MARK_MATCHED = (
    sa.update(events)
    .where(events.c.id.in_(sa.bindparam("ids", expanding=True)), events.c.matched_at.is_(None))
    .values(matched_at=sa.bindparam("now"))
)
_STORED = sa.select(events.c.id).where(events.c.id.in_(sa.bindparam("ids", expanding=True)))
_IS_DUE = sa.and_(is_waiting, executions.c.due_at <= sa.bindparam("now"))
_IS_LOST = sa.and_(is_running, executions.c.lease_until < sa.bindparam("lost_before"))
_CLAIMABLE = sa.select(executions).where(_HAS_ID, sa.or_(_IS_DUE, _IS_LOST)).with_for_update(skip_locked=True)
_LEASE = (  # writes the same changes as `transitions.claim`
    sa.update(executions)
    .where(_HAS_ID)
    .values(
        state=_RUNNING,
        reason=None,
        due_at=None,
        waits_for=None,
        lease_owner_id=sa.bindparam("worker_id"),
        lease_until=sa.bindparam("until"),
        fence=executions.c.fence + 1,
        notified_at=None,
    )
)
_WAITING_FOR = (
    sa.select(executions)
    .where(executions.c.waits_for == sa.bindparam("waits_for"), executions.c.waits_for.is_not(None))
    .order_by(executions.c.event_id, executions.c.id)
    .limit(sa.bindparam("limit"))
    .with_for_update(skip_locked=True)
)
# One lookup in the index per value. Neither database skips to the next value by itself for a DISTINCT.
_NEXT_WAIT = (
    sa.select(executions.c.waits_for)
    .where(executions.c.waits_for > sa.bindparam("after"), executions.c.waits_for.is_not(None))
    .order_by(executions.c.waits_for)
    .limit(1)
)
_RENEW = (
    sa.update(executions)
    .where(_HAS_ID, executions.c.lease_owner_id == sa.bindparam("worker_id"), is_running)
    .values(lease_until=sa.bindparam("until"))
)
_NOT_NOTIFIED = sa.or_(executions.c.notified_at.is_(None), executions.c.notified_at < sa.bindparam("notified_before"))
_DUE, _LOST = (
    sa.select(executions.c.id, executions.c.notified_at)
    .where(condition, _NOT_NOTIFIED)
    .order_by(since)
    .limit(sa.bindparam("limit"))
    for condition, since in ((_IS_DUE, executions.c.due_at), (_IS_LOST, executions.c.lease_until))
)
_DUE_LOCKED, _LOST_LOCKED = (select.with_for_update(skip_locked=True) for select in (_DUE, _LOST))
_SET_NOTIFIED = sa.update(executions).where(_HAS_ID).values(notified_at=sa.bindparam("now"))
# Every writer locks rows in the order of their ids, so that no two of them deadlock.
_FENCES = sa.select(executions.c.id, executions.c.fence).where(_HAS_ID).order_by(executions.c.id).with_for_update()
_ENDED_OR_CREATED_AT = sa.func.coalesce(executions.c.finished_at, executions.c.created_at)
_ANSWERS = (
    sa.select(executions.c.event_id, executions.c.id, executions.c.automation)
    .where(executions.c.event_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(executions.c.id)
)
_UPDATED = ("state", "reason", "due_at", "waits_for", "finished_at", "lease_owner_id", "lease_until", "steps")
_COLUMNS = ("id", "automation", "revision_id", "event_id", "created_at", "fence", "alias_reference", *_UPDATED)
# Only executions with a succeeded step are read; whether it is the right one is checked when they have been read.
_NEWER = (
    sa.select(executions.c.id, executions.c.event_id, executions.c.steps)
    .where(
        executions.c.alias_reference == sa.bindparam("alias_reference"),
        executions.c.automation == sa.bindparam("automation"),
        executions.c.event_id > sa.bindparam("after_id"),
        executions.c.event_id < sa.bindparam("before_id"),
        sa.type_coerce(executions.c.steps, sa.Text).like('%"state":"succeeded"%'),
    )
    .order_by(executions.c.event_id.desc())
    .limit(_NEWER_PAGE)
)
# On PostgreSQL every statement is a message to the server, so one statement finds the steps for which there is any
# newer execution, usually none. LATERAL with a limit looks each of them up in the index.
_wanted = (
    sa.func.json_to_recordset(sa.cast(sa.bindparam("rows", type_=sa.Text), postgresql.JSON))
    .table_valued(
        sa.column("number", sa.Integer),
        sa.column("alias_reference", sa.Text),
        sa.column("automation", sa.Text),
        sa.column("event_id", sa.Text),
    )
    .render_derived(with_types=True)
)
_any_newer = (
    sa.select(executions.c.id)
    .where(
        executions.c.alias_reference == _wanted.c.alias_reference,
        executions.c.automation == _wanted.c.automation,
        executions.c.event_id > _wanted.c.event_id,
    )
    .limit(1)
    .lateral("newer")
)
_WITH_NEWER = sa.select(_wanted.c.number).select_from(_wanted.join(_any_newer, sa.true()))
_INSERT = insert_many(executions, _COLUMNS, returning="id")
_UPDATE = update_many(executions, _COLUMNS, updated=_UPDATED, cleared=("notified_at",), if_equal="fence")
_INSERT_RECEIPTS = insert_many(receipts, ("execution_id", "step_id", "attempt", "state", "started_at", "details"))


class SqlExecutions(ExecutionStore, ExecutionAdmin):
    """`ExecutionStore` and `ExecutionAdmin` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- ExecutionStore ---------------------------------------------------------------------------

    @override
    def admit(self, admissions: Sequence[Admission], now: datetime) -> AdmissionResult:
        rows = [_execution_to_row(execution) for admission in admissions for execution in admission.executions]
        rows.sort(key=lambda row: str(row["id"]))  # see _FENCES
        matched: dict[str, Any] = {"ids": sorted(admission.event_id for admission in admissions), "now": now}
        failures = [event for admission in admissions for event in admission.events]
        has_budgets = any(admission.budget for admission in admissions)

        def insert(
            connection: Connection, inserted: Sequence[Mapping[str, Any]], skipped: frozenset[ExecutionId] = frozenset()
        ) -> frozenset[ExecutionId]:
            new = frozenset(_INSERT.execute(connection, inserted).scalars()) if inserted else frozenset[ExecutionId]()
            accepted = new - skipped
            if caused := [event for event in failures if event.chain[-1].execution_id in accepted]:
                insert_events(connection, caused, now)
            return accepted

        def work(connection: Connection) -> AdmissionResult:
            # Fewer marked events than admissions are rare: an event arrived twice, or was never accepted.
            unknown = frozenset[EventId]()
            if connection.execute(_MARK_MATCHED, matched).rowcount < len(admissions):
                unknown = frozenset(matched["ids"]) - frozenset(connection.execute(_STORED, matched).scalars())
            own = [row for row in rows if row["event_id"] not in unknown] if unknown else rows
            if not has_budgets:
                return AdmissionResult(insert(connection, own), unknown=unknown)
            known = [admission for admission in admissions if admission.event_id not in unknown]
            skipped, exhausted = skip_executions_over_budget(connection, known, now)
            kept = [_execution_to_row(skipped[row["id"]]) if row["id"] in skipped else row for row in own]
            return AdmissionResult(insert(connection, kept, frozenset(skipped)), exhausted, unknown)

        return self._database.write(work)

    @override
    def reject(self, event_id: EventId, reason: str, now: datetime) -> bool:
        def work(connection: Connection) -> bool:
            is_new = connection.execute(_MARK_MATCHED, {"ids": [event_id], "now": now}).rowcount > 0
            if is_new:
                set_warning(connection, event_id, reason)
            return is_new

        return self._database.write(work)

    @override
    def claim(
        self,
        execution_ids: Collection[ExecutionId],
        *,
        worker_id: WorkerId,
        now: datetime,
        until: datetime,
        with_lost: bool = True,
    ) -> tuple[Claim, ...]:
        values = {"ids": list(execution_ids), "now": now, "lost_before": now if with_lost else _NEVER}

        def work(connection: Connection) -> tuple[Claim, ...]:
            rows = connection.execute(_CLAIMABLE, values).mappings()
            claims = [transitions.claim(_execution_from_row(row), worker_id=worker_id, until=until) for row in rows]
            if claims:
                ids = [claim.execution.id for claim in claims]
                connection.execute(_LEASE, {"ids": ids, "worker_id": worker_id, "until": until})
            return tuple(claims)

        return self._database.write(work)

    @override
    def claim_waiting(self, counts: Mapping[str, int], *, worker_id: WorkerId, until: datetime) -> tuple[Claim, ...]:
        def work(connection: Connection) -> tuple[Claim, ...]:
            claims = []
            for waits_for, count in counts.items():
                rows = connection.execute(_WAITING_FOR, {"waits_for": waits_for, "limit": count}).mappings()
                claims += [
                    transitions.claim(_execution_from_row(row), worker_id=worker_id, until=until) for row in rows
                ]
            if claims:
                ids = [claim.execution.id for claim in claims]
                connection.execute(_LEASE, {"ids": ids, "worker_id": worker_id, "until": until})
            return tuple(claims)

        return self._database.write(work)

    @override
    def waits(self) -> tuple[str, ...]:
        def work(connection: Connection) -> tuple[str, ...]:
            found = [""]
            while (following := connection.execute(_NEXT_WAIT, {"after": found[-1]}).scalar()) is not None:
                found.append(following)
            return tuple(found[1:])

        return self._database.read(work)

    @override
    def record(self, updates: Sequence[ExecutionUpdate]) -> frozenset[ExecutionId]:
        receipt_rows = [_receipt_to_row(receipt) for update in updates for receipt in update.receipts]
        rows = {update.execution.id: _execution_to_row(update.execution) for update in updates}

        def work(connection: Connection) -> frozenset[ExecutionId]:
            if receipt_rows:
                _INSERT_RECEIPTS.execute(connection, receipt_rows)
            fences = {row.id: row.fence for row in connection.execute(_FENCES, {"ids": list(rows)})}
            accepted = {key for key, row in rows.items() if fences.get(key) == row["fence"]}
            if accepted:
                _UPDATE.execute(connection, [rows[key] for key in sorted(accepted)])
            _write_events_and_jobs(connection, [update for update in updates if update.execution.id in accepted])
            return frozenset(rows.keys() - accepted)

        return self._database.write(work)

    @override
    def renew(self, execution_ids: Collection[ExecutionId], *, worker_id: WorkerId, until: datetime) -> None:
        if execution_ids:
            values = {"ids": list(execution_ids), "worker_id": worker_id, "until": until}
            self._database.write(lambda connection: connection.execute(_RENEW, values))

    @override
    def take_due(
        self, *, now: datetime, notified_before: datetime, limit: int, with_lost: bool = True
    ) -> tuple[Due, ...]:
        lost_before = now if with_lost else _NEVER
        values = {"now": now, "lost_before": lost_before, "notified_before": notified_before, "limit": limit}

        def any_due(connection: Connection) -> bool:
            return any(connection.execute(select, values | {"limit": 1}).first() for select in (_DUE, _LOST))

        def work(connection: Connection) -> tuple[Due, ...]:
            rows = [*connection.execute(_DUE_LOCKED, values), *connection.execute(_LOST_LOCKED, values)][:limit]
            connection.execute(_SET_NOTIFIED, {"ids": [row.id for row in rows], "now": now})
            return tuple(Due(row.id, notified_before=row.notified_at is not None) for row in rows)

        # Usually nothing is due. Then a read is enough, and SQLite's single writer is not disturbed.
        return self._database.write(work) if self._database.read(any_due) else ()

    # --- ExecutionOrder ---------------------------------------------------------------------------

    @override
    def find_overtaking(self, steps: Sequence[OrderedStep]) -> tuple[ExecutionId | None, ...]:
        def work(connection: Connection) -> tuple[ExecutionId | None, ...]:
            numbers = _numbers_with_newer(connection, steps) if connection.dialect.name == "postgresql" else None
            return tuple(
                _newest_completed(connection, step) if numbers is None or number in numbers else None
                for number, step in enumerate(steps)
            )

        return self._database.read(work)

    # --- ExecutionAdmin ---------------------------------------------------------------------------

    @override
    def find(self, execution_id: ExecutionId) -> tuple[Execution, tuple[Receipt, ...]] | None:
        select = sa.select(executions).where(executions.c.id == execution_id)
        select_receipts = (
            sa.select(receipts)
            .where(receipts.c.execution_id == execution_id)
            .order_by(receipts.c.started_at, receipts.c.attempt)
        )

        def work(connection: Connection) -> tuple[Execution, tuple[Receipt, ...]] | None:
            row = connection.execute(select).mappings().first()
            if row is None:
                return None
            receipt_rows = connection.execute(select_receipts).mappings()
            return _execution_from_row(row), tuple(_receipt_from_row(receipt) for receipt in receipt_rows)

        return self._database.read(work)

    @override
    def page(self, query: ExecutionQuery, *, cursor: str | None, limit: int) -> Page[Execution]:
        select = sa.select(executions).order_by(executions.c.id.desc()).limit(limit + 1)
        if cursor is not None:
            select = select.where(executions.c.id < decode_cursor(cursor))
        if query.event_id is not None:
            select = select.where(executions.c.event_id == query.event_id)
        if query.automation is not None:
            select = select.where(executions.c.automation == query.automation)
        if query.states:
            # Indexes of the other filters are more selective. With an index of states, SQLite would read every
            # execution in them.
            with_state_index = query.automation is None and query.event_id is None and query.id_part is None
            select = select.where(_has_state(query.states, with_index=with_state_index))
        if query.since is not None:
            select = select.where(query.since <= _ENDED_OR_CREATED_AT)
        if query.until is not None:
            select = select.where(query.until > _ENDED_OR_CREATED_AT)
        if query.id_part is not None:
            select = select.where(has_id_part(executions.c.id, query.id_part))
        rows = self._database.read(lambda connection: connection.execute(select).mappings().all())
        items = tuple(_execution_from_row(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].id) if len(rows) > limit else None)

    @override
    def count_by_time(self, since: datetime, bucket: timedelta) -> Mapping[tuple[int, ExecutionState], int]:
        microsecond = timedelta(microseconds=1)
        start = sa.literal((since - datetime.fromtimestamp(0, UTC)) // microsecond, sa.BigInteger)
        width = sa.literal(bucket // microsecond, sa.BigInteger)
        number = ((sa.type_coerce(executions.c.created_at, sa.BigInteger) - start) // width).label("number")
        select = (
            sa.select(number, executions.c.state, sa.func.count().label("total"))
            .where(executions.c.id >= first_id("exe", since), executions.c.created_at >= since)
            .group_by(sa.text("number"), executions.c.state)
        )
        rows = self._database.read(lambda connection: connection.execute(select).all())
        return {(int(row.number), ExecutionState(row.state)): row.total for row in rows}

    @override
    def answers(self, event_ids: Collection[EventId]) -> Mapping[EventId, tuple[Answer, ...]]:
        rows = self._database.read(lambda connection: connection.execute(_ANSWERS, {"ids": list(event_ids)}).all())
        found: dict[EventId, list[Answer]] = defaultdict(list)
        for row in rows:
            found[row.event_id].append(Answer(row.id, row.automation))
        return {event_id: tuple(answers) for event_id, answers in found.items()}

    @override
    def amend(self, execution_id: ExecutionId, change: Callable[[Execution], Execution]) -> Execution:
        select = sa.select(executions).where(executions.c.id == execution_id).with_for_update()

        def work(connection: Connection) -> Execution:
            row = connection.execute(select).mappings().first()
            if row is None:
                raise NotFound(f"there is no execution {execution_id!r}; see `upshot executions list`")
            before = _execution_from_row(row)
            after = replace(change(before), fence=before.fence + 1)
            values = _execution_to_row(after) | {"notified_at": None}
            connection.execute(sa.update(executions).where(executions.c.id == execution_id).values(**values))
            # A retried execution gets new jobs, so its old ones must stop, too.
            if ended_at := after.finished_at or before.finished_at:
                request_stop_for_ended(connection, {execution_id: ended_at})
            return after

        return self._database.write(work)

    @override
    def add(self, executions: Sequence[Execution]) -> None:
        rows = [_execution_to_row(execution) for execution in sorted(executions, key=lambda execution: execution.id)]
        self._database.write(lambda connection: _INSERT.execute(connection, rows).all())

    @override
    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        statement = (
            sa.update(executions)
            .where(
                is_running,
                executions.c.lease_owner_id == worker_id,
                executions.c.lease_until > now,
            )
            .values(lease_until=now)
        )
        return self._database.write(lambda connection: connection.execute(statement).rowcount)


def _has_state(states: Collection[ExecutionState], *, with_index: bool) -> sa.ColumnElement[bool]:
    """Return the condition that an execution is in one of the states. With an index, it uses the partial indexes."""
    final = [state.value for state in states if state.is_final]
    if not with_index:
        return executions.c.state.concat("").in_([state.value for state in states])
    conditions = [sa.and_(is_final, executions.c.state.in_(final))] if final else []
    if ExecutionState.WAITING in states:
        conditions.append(is_waiting)
    if ExecutionState.RUNNING in states:
        conditions.append(is_running)
    return sa.or_(*conditions)


def _numbers_with_newer(connection: Connection, steps: Sequence[OrderedStep]) -> frozenset[int]:
    """Return the positions of the steps whose automation has an execution for a newer event of the alias."""
    rows = [
        {
            "number": number,
            "alias_reference": step.alias_reference,
            "automation": step.automation,
            "event_id": step.event_id,
        }
        for number, step in enumerate(steps)
    ]
    return frozenset(connection.execute(_WITH_NEWER, {"rows": orjson.dumps(rows).decode()}).scalars())


def _newest_completed(connection: Connection, step: OrderedStep) -> ExecutionId | None:
    values = {"alias_reference": step.alias_reference, "automation": step.automation, "after_id": step.event_id}
    before_id = _AFTER_ALL_EVENTS
    while rows := connection.execute(_NEWER, {**values, "before_id": before_id}).all():
        for row in rows:
            if transitions.has_completed(map(load_step, row.steps), step.step_id):
                return ExecutionId(row.id)
        before_id = rows[-1].event_id
    return None


def _write_events_and_jobs(connection: Connection, updates: Sequence[ExecutionUpdate]) -> None:
    for update in updates:
        if update.events:
            insert_events(connection, update.events, update.events[0].time)
    insert_jobs(connection, (job for update in updates for job in update.jobs))
    # The jobs of an ended execution must stop, and no execution may wait for a job that has ended already.
    with_jobs = [update.execution for update in updates if any(step.job_id for step in update.execution.steps)]
    request_stop_for_ended(
        connection, {execution.id: execution.finished_at for execution in with_jobs if execution.finished_at}
    )
    wake_if_finished(connection, sorted(job_id for execution in with_jobs if (job_id := execution.awaited_job_id)))


def _execution_to_row(execution: Execution) -> dict[str, Any]:
    return {
        "id": execution.id,
        "automation": execution.automation,
        "revision_id": execution.revision_id,
        "event_id": execution.event_id,
        "state": execution.state.value,
        "reason": execution.reason,
        "due_at": execution.due_at,
        "waits_for": execution.waits_for,
        "created_at": execution.created_at,
        "finished_at": execution.finished_at,
        "lease_owner_id": execution.lease_owner_id,
        "lease_until": execution.lease_until,
        "fence": execution.fence,
        "steps": dump_steps(execution.steps),
        "alias_reference": execution.alias_reference,
    }


def _execution_from_row(row: RowMapping) -> Execution:
    return Execution(
        id=row["id"],
        automation=row["automation"],
        revision_id=row["revision_id"],
        event_id=row["event_id"],
        state=ExecutionState(row["state"]),
        reason=row["reason"],
        due_at=row["due_at"],
        waits_for=row["waits_for"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        lease_owner_id=row["lease_owner_id"],
        lease_until=row["lease_until"],
        fence=row["fence"],
        steps=tuple(load_step(step) for step in row["steps"]),
        alias_reference=row["alias_reference"],
    )


def _receipt_to_row(receipt: Receipt) -> dict[str, Any]:
    return {
        "execution_id": receipt.execution_id,
        "step_id": receipt.step_id,
        "attempt": receipt.attempt,
        "state": receipt.state.value,
        "started_at": receipt.started_at,
        "details": dump_receipt(receipt),
    }


def _receipt_from_row(row: RowMapping) -> Receipt:
    return load_receipt(
        row["details"],
        execution_id=row["execution_id"],
        step_id=row["step_id"],
        attempt=row["attempt"],
        state=row["state"],
        started_at=row["started_at"],
    )
