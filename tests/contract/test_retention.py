"""Old rows are removed in batches, and whatever is still needed stays."""

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.databases import KINDS, open_database
from upshot.adapters.sql import retention
from upshot.adapters.sql.destinations import SqlDestinations
from upshot.adapters.sql.events import SqlEvents, insert_events
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.retention import SqlRetention
from upshot.adapters.sql.schema import events, file_faults, history, receipts, workers
from upshot.clock import FrozenClock
from upshot.domain.event import Actor, Cause, Event, EventKind
from upshot.domain.execution import AttemptState, Execution, ExecutionState, Receipt
from upshot.execution.retention import FAST_SECONDS, MAX_BATCH, MIN_BATCH, SLOW_SECONDS, Retention, next_batch
from upshot.ids import DeliveryId, EventId, RevisionId, WorkerId, derive_execution_id, new_id
from upshot.ports.destinations import DestinationReport
from upshot.ports.events import EventQuery
from upshot.ports.executions import Admission, ExecutionQuery, ExecutionUpdate
from upshot.ports.retention import Kept, Removed

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OLD = NOW - timedelta(days=100)
AGES = {kept: timedelta(days=90) for kept in Kept}


class World:
    """Stores on one database, with short ways to fill them."""

    def __init__(self, database) -> None:
        self.database = database
        self.executions = SqlExecutions(database)
        self.retention = SqlRetention(database)

    def accept(self, *, time=OLD, matched=True, kind=EventKind.CUSTOM, subject="nightly", data=None, chain=()) -> Event:
        event = Event(
            id=EventId(new_id("evt", time)),
            kind=kind,
            time=time,
            subject=subject,
            actor=Actor("ann"),
            mutation_id="mut_1",
            sequence=0,
            data=data or {},
            chain=chain,
        )
        self.database.write(lambda connection: insert_events(connection, [event], time))
        if matched:
            self.executions.admit([Admission(event.id, ())], time)
        return event

    def execute(self, event, *, automation="promote", state=ExecutionState.SUCCEEDED, finished_at=OLD) -> Execution:
        execution = Execution(
            id=derive_execution_id(event.id, automation),
            automation=automation,
            revision_id=RevisionId("r1"),
            event_id=event.id,
            state=state,
            reason=None,
            due_at=None,
            created_at=event.time,
            finished_at=finished_at if state.is_final else None,
            lease_owner_id=None,
            lease_until=None,
            fence=1,
            steps=(),
        )
        self.executions.admit([Admission(event.id, (execution,))], event.time)
        return execution

    def attempt(self, execution, number=1, *, started_at=OLD) -> None:
        receipt = Receipt(
            execution_id=execution.id,
            step_id="hook",
            attempt=number,
            state=AttemptState.SUCCEEDED,
            delivery_id=DeliveryId("dlv_1"),
            started_at=started_at,
            took_seconds=0.1,
            worker_id=WorkerId("w1"),
        )
        self.executions.record([ExecutionUpdate(execution, (receipt,))])

    def remove_old(self, ages=AGES) -> dict[Kept, int]:
        async def run():
            return await Retention(
                self.retention, ages, FrozenClock(NOW), asyncio.to_thread, asyncio.Event()
            ).remove_old()

        return dict(asyncio.run(run()))

    def event_ids(self) -> set[str]:
        page = SqlEvents(self.database).page(EventQuery(), cursor=None, limit=1000)
        return {stored.event.id for stored in page.items}

    def execution_ids(self) -> set[str]:
        return {item.id for item in self.executions.page(ExecutionQuery(), cursor=None, limit=1000).items}

    def count(self, table: sa.Table) -> Any:
        select = sa.select(sa.func.count()).select_from(table)
        return self.database.read(lambda connection: connection.execute(select).scalar_one())


@pytest.fixture(params=KINDS)
def world(request) -> World:
    return World(open_database(request.param, request))


def test_old_events_and_executions_are_removed_with_their_receipts(world):
    """An event goes after the executions that answer it. Whatever is newer stays."""
    old, new = world.accept(), world.accept(time=NOW)
    world.attempt(world.execute(old))
    kept = world.execute(new, finished_at=NOW)
    world.attempt(kept, started_at=NOW)
    removed = world.remove_old()
    assert (removed[Kept.EXECUTIONS], removed[Kept.EVENTS]) == (1, 1)
    assert world.event_ids() == {new.id}
    assert world.execution_ids() == {kept.id}
    assert world.count(receipts) == 1


def test_an_execution_that_ended_lately_stays_with_its_event(world):
    """The age of an execution counts from its end, and an event stays as long as its executions."""
    event = world.accept()
    kept, other = world.execute(event, finished_at=NOW), world.execute(event, automation="other")
    world.remove_old()
    assert world.execution_ids() == {kept.id}
    assert other.id not in world.execution_ids()
    assert world.event_ids() == {event.id}


@pytest.mark.parametrize("state", [ExecutionState.WAITING, ExecutionState.RUNNING])
def test_what_waits_stays(world, state):
    """An unmatched event, and an execution that is not final with its event and receipts, stay at any age."""
    unmatched, event = world.accept(matched=False), world.accept()
    execution = world.execute(event, state=state)
    world.attempt(execution)
    assert not any(world.remove_old().values())
    assert world.event_ids() == {unmatched.id, event.id}
    assert world.execution_ids() == {execution.id}
    assert world.count(receipts) == 1


@pytest.mark.parametrize("matched", [True, False])
def test_what_caused_something_that_waits_stays(world, matched):
    """The executions of the chain stay, and so do the events that they answered, until nothing waits any more."""
    first = world.accept()
    cause = world.execute(first)
    second = world.accept(chain=(Cause("promote", cause.id, first.id, None),))
    other = world.execute(second)
    chain = (*second.chain, Cause("promote", other.id, second.id, None))
    third = world.accept(chain=chain, matched=matched)
    if matched:
        waiting = world.execute(third, state=ExecutionState.WAITING)
    world.remove_old()
    assert {cause.id, other.id} <= world.execution_ids()
    assert world.event_ids() == {first.id, second.id, third.id}

    if matched:
        world.executions.record([ExecutionUpdate(replace(waiting, state=ExecutionState.FAILED, finished_at=OLD))])
    else:
        world.executions.admit([Admission(third.id, ())], NOW)
    world.remove_old()
    assert world.event_ids() == set()
    assert world.execution_ids() == set()


def test_the_last_event_of_each_alias_stays(world):
    """It says who moved the alias last, or who removed it."""

    def alias_event(alias, version, kind=EventKind.ALIAS_ADDED, collection="churn"):
        return world.accept(kind=kind, subject=f"model/{collection}:{version}", data={"alias": alias})

    alias_event("production", "v0")
    kept = [
        alias_event("production", "v1"),
        alias_event("production", "v0", collection="other"),
        alias_event("candidate", "v0"),
    ]
    alias_event("old", "v0")
    kept.append(alias_event("old", "v0", EventKind.ALIAS_REMOVED))
    world.accept(kind=EventKind.TAG_ADDED, subject="model/churn:v0")
    world.remove_old()
    assert world.event_ids() == {event.id for event in kept}

    latest = world.accept(time=NOW, kind=EventKind.ALIAS_ADDED, subject="model/churn:v9", data={"alias": "production"})
    world.remove_old()
    assert world.event_ids() == {latest.id, *(event.id for event in kept[1:])}


def test_old_receipts_of_final_executions_are_removed(world):
    """Receipts have a retention of their own."""
    execution = world.execute(world.accept(), finished_at=NOW)
    world.attempt(execution, 1)
    world.attempt(execution, 2, started_at=NOW)
    assert world.remove_old()[Kept.RECEIPTS] == 1
    found = world.executions.find(execution.id)
    assert [receipt.attempt for receipt in found[1]] == [2]


def test_the_history_is_kept_unless_it_has_a_retention(world):
    """Nothing without an age is removed."""
    row = {"actor": "ann", "action": "x", "subject": "s", "mutation_id": "m", "before": {}, "after": {}}
    rows = [row | {"id": new_id("his", time), "time": time} for time in (OLD, NOW)]
    world.database.write(lambda connection: connection.execute(sa.insert(history), rows))
    world.remove_old({kept: age for kept, age in AGES.items() if kept is not Kept.HISTORY})
    assert world.count(history) == 2
    assert world.remove_old()[Kept.HISTORY] == 1
    assert world.count(history) == 1


def test_errors_of_files_are_removed_when_they_ended_long_ago(world):
    """An error that lasts is kept, however old it is."""
    row: dict[str, Any] = {"path": "a.yaml", "line": None, "reason": "x", "error_count": 1, "kept": []}
    ends: list[tuple[datetime, datetime | None]] = [(OLD, OLD), (OLD, NOW), (OLD, None)]
    rows = [{**row, "id": new_id("flt", since), "since": since, "until": until} for since, until in ends]
    world.database.write(lambda connection: connection.execute(sa.insert(file_faults), rows))
    assert world.remove_old()[Kept.FAULTS] == 1
    assert world.count(file_faults) == 2


def test_any_number_of_rows_is_removed_in_batches(world):
    """More rows than one batch holds, with rows that stay between them."""
    ids = [world.accept(matched=number % 5 != 0, time=OLD + timedelta(milliseconds=number)).id for number in range(300)]
    assert world.remove_old()[Kept.EVENTS] == 240
    assert world.event_ids() == set(ids[::5])


def test_a_batch_looks_at_few_rows_that_stay(world, monkeypatch):
    """However many rows must stay, a batch ends soon, and the next one continues behind them."""
    monkeypatch.setattr(retention, "WINDOW", 10)
    accepted = [
        world.accept(matched=number in {3, 31}, time=OLD + timedelta(milliseconds=number)) for number in range(35)
    ]
    ids = [event.id for event in accepted]

    first = world.retention.remove(Kept.EVENTS, before=NOW, after_id="", limit=5)
    second = world.retention.remove(Kept.EVENTS, before=NOW, after_id=first.last_id, limit=5)

    assert (first, second) == (Removed(1, ids[9]), Removed(0, ids[19]))
    assert world.remove_old()[Kept.EVENTS] == 1
    assert world.event_ids() == set(ids) - {ids[3], ids[31]}


def test_an_execution_that_is_retried_meanwhile_stays(world):
    """The conditions hold when the rows are deleted, not only when they were found."""
    execution = world.execute(world.accept(), state=ExecutionState.FAILED)
    found = threading.Event()
    original = world.database.read

    def read(work):
        result = original(work)
        if not found.is_set():
            found.set()
            world.executions.amend(
                execution.id, lambda failed: replace(failed, state=ExecutionState.WAITING, finished_at=None, due_at=NOW)
            )
        return result

    world.database.read = read
    removed = world.retention.remove(Kept.EXECUTIONS, before=NOW, after_id="", limit=10)
    world.database.read = original
    assert removed.rows == 0
    assert world.execution_ids() == {execution.id}


def test_a_worker_that_was_killed_is_forgotten(world):
    """Its row does not stay without end."""
    row = {
        "host": "h", "pid": 1, "started_at": OLD, "in_progress": 0, "automations": 0, "machine": "", "queues": [],
        "engines": {},
    }  # fmt: skip
    rows = [row | {"id": name, "seen_at": time} for name, time in (("w1", OLD), ("w2", NOW))]
    world.database.write(lambda connection: connection.execute(sa.insert(workers), rows))
    assert world.remove_old()[Kept.WORKERS] == 1


def test_what_a_killed_worker_reported_of_destinations_is_forgotten(world):
    """A killed worker is replaced by a worker with another id, so its own rows would never be updated or removed."""
    store = SqlDestinations(world.database)
    reports = [DestinationReport(f"https://{name}.example", False, None, 0, 20, None) for name in ("a", "b")]
    store.report(WorkerId("w1"), reports, OLD)
    store.report(WorkerId("w2"), reports, NOW)
    assert world.remove_old()[Kept.DESTINATIONS] == 2
    assert len(store.list(seen_since=OLD)) == 2
    assert world.remove_old()[Kept.DESTINATIONS] == 0


def test_an_event_of_an_alias_that_an_older_version_stored_stays(world):
    """During an upgrade, an older version may store events without the column that the search for later events uses."""
    world.accept(kind=EventKind.ALIAS_ADDED, subject="model/churn:v0", data={"alias": "production"})
    world.database.write(lambda connection: connection.execute(sa.update(events).values(alias=None)))
    world.accept(kind=EventKind.ALIAS_ADDED, subject="model/churn:v1", data={"alias": "production"})
    assert world.remove_old()[Kept.EVENTS] == 0


def test_the_size_of_batches_follows_their_duration():
    """A slow batch is followed by a smaller one, and a fast batch by a larger one."""
    assert next_batch(100, 2 * SLOW_SECONDS) == 50
    assert next_batch(100, FAST_SECONDS / 2) == 200
    assert next_batch(100, (FAST_SECONDS + SLOW_SECONDS) / 2) == 100
    assert next_batch(MIN_BATCH, 10.0) == MIN_BATCH
    assert next_batch(MAX_BATCH, 0.0) == MAX_BATCH
