"""What the store of events promises, in memory, on SQLite and on PostgreSQL."""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.databases import KINDS, open_database
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.events import SqlEvents, insert_events
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.migrate import migrate
from upshot.domain.event import Actor, Cause, Event, EventKind
from upshot.domain.execution import Execution, ExecutionState
from upshot.errors import InvalidInput
from upshot.ids import EventId, ExecutionId, RevisionId, WorkerId
from upshot.ports.events import EventQuery, EventStore, StoredEvent
from upshot.ports.executions import Admission, ExecutionStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Stores:
    events: EventStore
    executions: ExecutionStore
    accept: Callable[[Sequence[Event], datetime], object]


@pytest.fixture(params=["memory", *KINDS])
def stores(request) -> Stores:
    if request.param == "memory":
        kept = MemoryEvents()
        return Stores(kept, MemoryExecutions(kept), kept.add)
    database = open_database(request.param, request)
    return Stores(
        SqlEvents(database),
        SqlExecutions(database),
        lambda events, now: database.write(lambda connection: insert_events(connection, events, now)),
    )


def name(number: int) -> str:
    """An event's id, sorting by its number."""
    return f"evt_{number:026}"


def event(number: int, **changes) -> Event:
    made = Event(
        id=EventId(name(number)),
        kind=EventKind.CUSTOM,
        time=NOW + timedelta(microseconds=number),
        subject="nightly",
        actor=Actor("ann"),
        mutation_id="mut_1",
        sequence=number,
        data={"text": "ü\x00", "nested": [1, 1.5, None, True, {"a": []}]},
        name="nightly",
        chain=(Cause("promote", ExecutionId("exe_1"), EventId("evt_0"), None),),
    )
    return replace(made, **changes)


def about(number: int, subject: str, kind: EventKind = EventKind.ALIAS_ADDED) -> Event:
    return event(number, subject=subject, kind=kind, name=None, data={}, mutation_id=f"mut_{number}")


def numbers(items) -> list[int]:
    return [int(one.event.id.removeprefix("evt_")) for one in items]


def admit(stores, number, *executions):
    made = tuple(
        Execution(one, "promote", RevisionId("r1"), EventId(name(number)), ExecutionState.RUNNING, NOW, lease_owner_id=WorkerId("w1"), lease_until=NOW)
        for one in executions
    )
    stores.executions.admit([Admission(EventId(name(number)), made)], NOW)


def listed(stores, cursor=None, limit=100, **query):
    return stores.events.page(EventQuery(**query), cursor=cursor, limit=limit)


def test_an_event_comes_back_as_it_was_accepted(stores):
    """Every field, by id and with what has become of it."""
    stores.accept([event(1), event(2)], NOW)
    assert stores.events.get([name(1), name(2), name(3)]) == {name(1): event(1), name(2): event(2)}
    assert stores.events.get([]) == {}
    assert stores.events.find(name(1)) == StoredEvent(event(1), matched_at=None)
    assert stores.events.find(name(3)) is None


def test_an_event_is_accepted_once(stores):
    """The first text stays."""
    stores.accept([event(1)], NOW)
    stores.accept([event(1, data={"other": True}), event(2)], NOW)
    assert stores.events.get([name(1)])[name(1)] == event(1)
    assert numbers(listed(stores).items) == [2, 1]


def test_a_matched_event_names_its_executions(stores):
    """Sorted; an event that nobody answers is matched too."""
    stores.accept([event(1), event(2)], NOW)
    admit(stores, 1, "exe_b", "exe_a")
    admit(stores, 2)
    assert stores.events.find(name(1)) == StoredEvent(event(1), NOW, (ExecutionId("exe_a"), ExecutionId("exe_b")))
    assert stores.events.find(name(2)) == StoredEvent(event(2), NOW, ())
    assert listed(stores).items == (StoredEvent(event(2), NOW), StoredEvent(event(1), NOW))


def test_events_come_in_pages_newest_first(stores):
    """The cursor of a page leads to the next; new events do not disturb it."""
    stores.accept([event(number) for number in range(5)], NOW)
    first = listed(stores, limit=2)
    stores.accept([event(9)], NOW)
    second = listed(stores, cursor=first.next, limit=2)
    third = listed(stores, cursor=second.next, limit=2)
    assert [numbers(page.items) for page in (first, second, third)] == [[4, 3], [2, 1], [0]]
    assert third.next is None
    assert listed(stores, limit=6).next is None


def test_events_after_one_come_oldest_first(stores):
    """As a reader that follows along wants them."""
    stores.accept([event(number) for number in range(5)], NOW)
    first = listed(stores, after_id=name(1), limit=2)
    second = listed(stores, after_id=name(1), cursor=first.next, limit=2)
    assert [numbers(page.items) for page in (first, second)] == [[2, 3], [4]]
    assert second.next is None
    assert listed(stores, after_id=name(4)).items == ()


def test_events_are_found_by_what_they_are_about(stores):
    """A subject's beginning up to the colon means all its versions, and nothing that merely begins alike."""
    kinds = EventKind.COLLECTION_CREATED, EventKind.VERSION_LINKED
    subjects = [
        "model/churn",
        "model/churn:v3",
        "model/churn:v31",
        "model/churn-eu:v3",
        "model/churn eu",
        "model/Churn:v3",
    ]
    stores.accept([about(number, subject, kinds[number % 2]) for number, subject in enumerate(subjects)], NOW)
    stores.accept([event(9)], NOW)

    assert numbers(listed(stores, subject="model/churn").items) == [2, 1, 0]
    assert numbers(listed(stores, subject="model/churn:v3").items) == [1]
    assert numbers(listed(stores, subject="model/churn:").items) == []
    assert numbers(listed(stores, subject="model/ch%").items) == []
    assert numbers(listed(stores, kind="version-linked").items) == [5, 3, 1]
    assert numbers(listed(stores, kind="version-linked", subject="model/churn").items) == [1]
    assert numbers(listed(stores, name="nightly").items) == [9]
    assert numbers(listed(stores, mutation_id="mut_4").items) == [4]


@pytest.mark.parametrize("cursor", ["", "x", "!!", "AAAA", "ZXZ0XzE", "w7w", "a" * 1000])
def test_a_wrong_cursor_is_refused(stores, cursor):
    """With what to pass instead."""
    with pytest.raises(InvalidInput, match="pass the `next` of the page before"):
        listed(stores, cursor=cursor)


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x" * 5000, "'; --"])
def test_texts_that_no_event_can_have_find_nothing(stores, text):
    """Or are refused as input; no error of the database comes through."""
    stores.accept([event(1)], NOW)
    for ask in (
        lambda: stores.events.find(text),
        lambda: stores.events.get([text]),
        lambda: listed(stores, subject=text).items,
        lambda: listed(stores, kind=text).items,
        lambda: listed(stores, name=text).items,
    ):
        with contextlib.suppress(InvalidInput):
            assert not ask()


def take(stores, *, at, before, limit=10):
    taken = stores.events.take_unmatched(published_before=before, now=at, limit=limit)
    return [int(one.id.removeprefix("evt_")) for one in taken]


def test_unmatched_events_are_taken_oldest_first(stores):
    """Each once per wait, and never once it is matched."""
    soon, later = NOW + timedelta(seconds=5), NOW + timedelta(seconds=10)
    stores.accept([event(3)], NOW)
    stores.accept([event(1), event(2)], NOW + timedelta(seconds=1))
    stores.accept([event(4)], soon)
    admit(stores, 2)

    assert take(stores, at=soon, before=NOW) == []
    assert take(stores, at=soon, before=soon, limit=1) == [3]
    assert take(stores, at=soon, before=soon) == [1]
    assert take(stores, at=soon, before=soon) == []
    assert take(stores, at=later, before=later) == [1, 3, 4]


def test_several_relays_share_the_unmatched(stores):
    """Nobody takes what another has taken."""
    stores.accept([event(number) for number in range(200)], NOW)
    later = NOW + timedelta(seconds=1)

    def relay(_):
        mine = []
        while taken := take(stores, at=later, before=later, limit=7):
            mine += taken
        return mine

    with ThreadPoolExecutor(6) as pool:
        shares = list(pool.map(relay, range(6)))
    # With SKIP LOCKED a relay may see nothing left while others still hold theirs: one more round finds the rest.
    shares.append(relay(0))
    assert sorted(number for share in shares for number in share) == list(range(200))


def test_a_relay_that_finds_nothing_does_not_wait_for_a_writer(tmp_path):
    """It looks every second; on SQLite there is one writing place, and looking shall not take it."""
    database = Database(sqlite_url(tmp_path / "upshot.db"))
    migrate(database)
    writer = sqlite3.connect(tmp_path / "upshot.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(SqlEvents(database).take_unmatched, published_before=NOW, now=NOW, limit=10)
        try:
            assert looking.result(2) == ()
        finally:
            writer.close()
            looking.exception()
            database.close()
