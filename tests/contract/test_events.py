"""Contract of the event stores: in memory, on SQLite and on PostgreSQL."""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

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
from upshot.ids import EventId, ExecutionId, RevisionId, WorkerId, new_id
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
        events = MemoryEvents()
        return Stores(events, MemoryExecutions(events), events.add)
    database = open_database(request.param, request)
    return Stores(
        SqlEvents(database),
        SqlExecutions(database),
        lambda events, now: database.write(lambda connection: insert_events(connection, events, now)),
    )


def event_id(number: int) -> str:
    """Return an event id that sorts by its number."""
    return f"evt_{number:026}"


def event(number: int, **changes) -> Event:
    event = Event(
        id=EventId(event_id(number)),
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
    return replace(event, **changes)


def about(number: int, subject: str, kind: EventKind = EventKind.ALIAS_ADDED) -> Event:
    return event(number, subject=subject, kind=kind, name=None, data={}, mutation_id=f"mut_{number}")


def numbers(items) -> list[int]:
    return [int(stored.event.id.removeprefix("evt_")) for stored in items]


def admit(stores, number, *execution_ids):
    executions = tuple(
        Execution(
            execution_id,
            "promote",
            RevisionId("r1"),
            EventId(event_id(number)),
            ExecutionState.RUNNING,
            NOW,
            lease_owner_id=WorkerId("w1"),
            lease_until=NOW,
        )
        for execution_id in execution_ids
    )
    stores.executions.admit([Admission(EventId(event_id(number)), executions)], NOW)


def list_events(stores, cursor=None, limit=100, **query):
    return stores.events.page(EventQuery(**query), cursor=cursor, limit=limit)


def test_an_event_comes_back_as_it_was_accepted(stores):
    """Every field is stored, and the event can be found by its id."""
    stores.accept([event(1), event(2)], NOW)
    assert stores.events.get([event_id(1), event_id(2), event_id(3)]) == {event_id(1): event(1), event_id(2): event(2)}
    assert stores.events.get([]) == {}
    assert stores.events.find(event_id(1)) == StoredEvent(event(1), matched_at=None)
    assert stores.events.find(event_id(3)) is None


def test_events_are_found_by_time_and_by_a_part_of_their_id(stores):
    """The id has the time. The part of the id is its beginning or its end."""
    old, new = (new_id("evt", NOW + timedelta(seconds=seconds)) for seconds in (-1, 1))
    stores.accept([event(1, id=EventId(old)), event(2, id=EventId(new))], NOW)

    def found(**query):
        return {stored.event.id for stored in list_events(stores, **query).items}

    assert found(since=NOW) == {new}
    assert found(since=NOW, kind="custom", subject="nightly") == {new}
    assert found(since=NOW - timedelta(seconds=2)) == {old, new}
    assert found(id_part=old[-9:]) == found(id_part=old[:20]) == {old}
    assert found(id_part="evt") == {old, new}
    assert found(id_part="vt_") == set()


def test_an_event_is_accepted_once(stores):
    """A second event with the same id changes nothing."""
    stores.accept([event(1)], NOW)
    stores.accept([event(1, data={"other": True}), event(2)], NOW)
    assert stores.events.get([event_id(1)])[event_id(1)] == event(1)
    assert numbers(list_events(stores).items) == [2, 1]


def test_a_matched_event_names_its_executions(stores):
    """Their ids are sorted. An event that no automation answers is matched, too."""
    stores.accept([event(1), event(2)], NOW)
    admit(stores, 1, "exe_b", "exe_a")
    admit(stores, 2)
    assert stores.events.find(event_id(1)) == StoredEvent(event(1), NOW, (ExecutionId("exe_a"), ExecutionId("exe_b")))
    assert stores.events.find(event_id(2)) == StoredEvent(event(2), NOW, ())
    assert list_events(stores).items == (StoredEvent(event(2), NOW), StoredEvent(event(1), NOW))


def test_events_come_in_pages_newest_first(stores):
    """The cursor of a page leads to the next page, even if events are added meanwhile."""
    stores.accept([event(number) for number in range(5)], NOW)
    first = list_events(stores, limit=2)
    stores.accept([event(9)], NOW)
    second = list_events(stores, cursor=first.next, limit=2)
    third = list_events(stores, cursor=second.next, limit=2)
    assert [numbers(page.items) for page in (first, second, third)] == [[4, 3], [2, 1], [0]]
    assert third.next is None
    assert list_events(stores, limit=6).next is None


def test_events_after_an_event_come_oldest_first(stores):
    """A reader that follows the events needs this order."""
    stores.accept([event(number) for number in range(5)], NOW)
    first = list_events(stores, after_id=event_id(1), limit=2)
    second = list_events(stores, after_id=event_id(1), cursor=first.next, limit=2)
    assert [numbers(page.items) for page in (first, second)] == [[2, 3], [4]]
    assert second.next is None
    assert list_events(stores, after_id=event_id(4)).items == ()


def test_events_are_found_by_subject_kind_name_and_mutation(stores):
    """The subject of a collection also finds its versions, but no other collection that starts with the same text."""
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

    assert numbers(list_events(stores, subject="model/churn").items) == [2, 1, 0]
    assert numbers(list_events(stores, subject="model/churn:v3").items) == [1]
    assert numbers(list_events(stores, subject="model/churn:").items) == []
    assert numbers(list_events(stores, subject="model/ch%").items) == []
    assert numbers(list_events(stores, kind="version-linked").items) == [5, 3, 1]
    assert numbers(list_events(stores, kind="version-linked", subject="model/churn").items) == [1]
    assert numbers(list_events(stores, name="nightly").items) == [9]
    assert numbers(list_events(stores, mutation_id="mut_4").items) == [4]


@pytest.mark.parametrize("cursor", ["", "x", "!!", "AAAA", "ZXZ0XzE", "w7w", "a" * 1000])
def test_an_invalid_cursor_is_rejected(stores, cursor):
    """The error names the cursor to pass instead."""
    with pytest.raises(InvalidInput, match="pass the `next` of the previous page"):
        list_events(stores, cursor=cursor)


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x" * 5000, "'; --"])
def test_a_text_that_no_event_can_have_finds_nothing(stores, text):
    """The store may also reject it as invalid input. No error of the database is passed on."""
    stores.accept([event(1)], NOW)
    for query in (
        lambda: stores.events.find(text),
        lambda: stores.events.get([text]),
        lambda: list_events(stores, subject=text).items,
        lambda: list_events(stores, kind=text).items,
        lambda: list_events(stores, name=text).items,
    ):
        with contextlib.suppress(InvalidInput):
            assert not query()


def take(stores, *, at, before, limit=10):
    taken = stores.events.take_unmatched(published_before=before, now=at, limit=limit)
    return [int(event.id.removeprefix("evt_")) for event in taken]


def test_unmatched_events_are_taken_oldest_first(stores):
    """Each is taken once until the wait has passed again, and never after it is matched."""
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


def find_rare(stores, *, among=1000, limit=10):
    return [int(event.id.removeprefix("evt_")) for event in stores.events.find_rare(among=among, limit=limit)]


def crowd(first: int, **changes) -> list[Event]:
    return [event(first + number, **changes) for number in range(20)]


ALIAS: dict[str, Any] = {"kind": EventKind.ALIAS_ADDED, "name": None, "data": {"alias": "production"}}


@pytest.mark.parametrize(
    "others",
    [
        crowd(10),
        crowd(10, **ALIAS, subject="model/churn:v1"),
        [event(number, **ALIAS, subject=f"model/c-{number}:v0") for number in range(10, 30)],
        [
            event(number, **(ALIAS | {"data": {"alias": f"tag-{number}"}}), subject="model/x:v0")
            for number in range(10, 30)
        ],
    ],
    ids=["one name", "one alias", "many collections", "many aliases"],
)
def test_events_unlike_most_others_are_found(stores, others):
    """A rare kind or name is found, even if all other events differ from each other as much as possible."""
    stores.accept(others, NOW)
    assert find_rare(stores) == []
    single = event(99, name="single", subject="single")
    deleted = event(98, kind=EventKind.COLLECTION_DELETED, name=None, subject="model/fraud", data={})
    stores.accept([single, deleted], NOW)
    assert find_rare(stores) == [98, 99]
    assert find_rare(stores, limit=1) == [98]
    assert stores.events.find_rare(among=1000, limit=10)[1] == single
    admit(stores, 99)
    assert find_rare(stores) == [98]


@pytest.mark.parametrize(
    "rare",
    [
        {"subject": "model/churn:v7", "data": {"alias": "staging"}},
        {"subject": "model/fraud:v1"},
        {"subject": "model/churn:v1", "kind": EventKind.ALIAS_REMOVED},
    ],
    ids=["alias", "collection", "kind"],
)
def test_an_alias_event_of_another_alias_collection_or_kind_is_rare(stores, rare):
    """Another version of the crowded collection is not rare."""
    stores.accept([*crowd(10, **ALIAS, subject="model/churn:v1"), event(9, **ALIAS, subject="model/churn:v2")], NOW)
    stores.accept([event(99, **(ALIAS | rare))], NOW)
    assert find_rare(stores) == [99]


def test_the_newest_unmatched_event_is_the_last_published_one(stores):
    """Events that were accepted since a search are recognized by it, also those of the same moment."""
    assert stores.events.newest_unmatched() is None
    stores.accept([event(5)], NOW)
    stores.accept([event(6)], NOW)
    assert stores.events.newest_unmatched() == event(6).id
    stores.accept([event(1)], NOW + timedelta(seconds=1))
    assert stores.events.newest_unmatched() == event(1).id
    for number in (1, 5, 6):
        admit(stores, number)
    assert stores.events.newest_unmatched() is None


def test_only_the_last_published_events_are_compared_for_rarity(stores):
    """The comparison costs the same with any backlog."""
    stores.accept([event(1, name="old", subject="old")], NOW)
    stores.accept(crowd(10), NOW + timedelta(seconds=1))
    stores.accept([event(99, name="new", subject="new")], NOW + timedelta(seconds=2))
    assert find_rare(stores) == [1, 99]
    assert find_rare(stores, among=21) == [99]


def test_several_relays_share_the_unmatched_events(stores):
    """No relay takes an event that another one has taken."""
    stores.accept([event(number) for number in range(200)], NOW)
    later = NOW + timedelta(seconds=1)

    def relay(_):
        numbers = []
        while taken := take(stores, at=later, before=later, limit=7):
            numbers += taken
        return numbers

    with ThreadPoolExecutor(6) as pool:
        shares = list(pool.map(relay, range(6)))
    # With SKIP LOCKED a relay may find nothing while others hold their locks. One more round finds the rest.
    shares.append(relay(0))
    assert sorted(number for share in shares for number in share) == list(range(200))


def test_a_relay_that_finds_nothing_does_not_wait_for_a_writer(tmp_path):
    """A relay polls every second, so on SQLite it must not wait for the single writer."""
    database = Database(sqlite_url(tmp_path / "upshot.db"))
    migrate(database)
    writer = sqlite3.connect(tmp_path / "upshot.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    with ThreadPoolExecutor(1) as pool:
        relaying = pool.submit(SqlEvents(database).take_unmatched, published_before=NOW, now=NOW, limit=10)
        try:
            assert relaying.result(2) == ()
        finally:
            writer.close()
            relaying.exception()
            database.close()
