"""The contract suite of `IdempotencyStore`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from upshot.adapters.memory.idempotency import MemoryIdempotency
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.idempotency import SqlIdempotency
from upshot.adapters.sql.schema import metadata
from upshot.clock import FrozenClock
from upshot.ports.idempotency import IdempotencyRecord, IdempotencyStore, StoredResponse

NOW = FrozenClock().now()
RESPONSE = StoredResponse(201, {"content-type": "application/json", "location": "/x"}, b'{"a": "\xc3\xa9"}')


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IdempotencyStore]:
    if request.param == "memory":
        yield MemoryIdempotency()
        return
    url = sqlite_url(tmp_path / "x.db")
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    database = Database(url)
    metadata.create_all(database.engine)
    yield SqlIdempotency(database)
    database.close()


def reserve(
    store: IdempotencyStore, call_id: str, *, fingerprint: str = "f", after_seconds: float = 0, key: str = "k"
) -> IdempotencyRecord:
    now = NOW + timedelta(seconds=after_seconds)
    return store.reserve(
        key,
        fingerprint,
        call_id=call_id,
        now=now,
        stale_before=now - timedelta(seconds=60),
        expired_before=now - timedelta(hours=24),
    )


def test_the_first_call_reserves_the_key(store):
    """The record has the time of the first call."""
    assert reserve(store, "one") == IdempotencyRecord("k", "f", NOW, "one", None)


def test_a_second_call_gets_the_record_of_the_first(store):
    """The second call may be the same request or another one."""
    reserve(store, "one")

    assert reserve(store, "two").call_id == "one"
    assert reserve(store, "two", fingerprint="g").fingerprint == "f"


def test_a_response_is_stored_unchanged(store):
    """Status, headers and bytes stay the same, and a response does not become stale."""
    reserve(store, "one")
    store.store_response("k", "one", RESPONSE)

    assert reserve(store, "two", after_seconds=3600) == IdempotencyRecord("k", "f", NOW, "one", RESPONSE)


def test_the_same_request_takes_over_from_a_dead_call(store):
    """It may reserve the key after a minute; the time of the first call does not change."""
    reserve(store, "one")

    assert reserve(store, "two", after_seconds=59).call_id == "one"
    assert reserve(store, "two", after_seconds=61) == IdempotencyRecord("k", "f", NOW, "two", None)


def test_another_request_does_not_take_over_from_a_dead_call(store):
    """The dead call may have made its change."""
    reserve(store, "one")

    assert reserve(store, "two", fingerprint="g", after_seconds=61).call_id == "one"


def test_a_call_that_lost_its_key_stores_no_response(store):
    """Only the call that took over stores one."""
    reserve(store, "one")
    reserve(store, "two", after_seconds=61)
    store.store_response("k", "one", RESPONSE)

    assert reserve(store, "three", after_seconds=62).response is None


def test_the_same_request_may_reserve_a_released_key(store):
    """It may do so at once, and no other request may; the time of the first call does not change."""
    reserve(store, "one")
    store.release("k", "one")

    assert reserve(store, "two", fingerprint="g").call_id is None
    assert reserve(store, "two", after_seconds=1) == IdempotencyRecord("k", "f", NOW, "two", None)


def test_any_request_may_reserve_a_deleted_key(store):
    """Only the call that holds a key can delete it."""
    reserve(store, "one")
    store.delete("k", "two")
    assert reserve(store, "three").call_id == "one"
    store.delete("k", "one")

    assert reserve(store, "two", fingerprint="g").call_id == "two"


def test_a_key_expires_after_a_day(store):
    """Any request may then reserve it, whether the key was pruned or not."""
    reserve(store, "one")
    store.store_response("k", "one", RESPONSE)

    assert reserve(store, "two", fingerprint="g", after_seconds=86_401).call_id == "two"


def test_old_keys_are_pruned(store):
    """Newer keys stay."""
    reserve(store, "one", key="old")
    reserve(store, "one", key="new", after_seconds=10)

    assert store.prune(expired_before=NOW + timedelta(seconds=5)) == 1
    assert reserve(store, "two", key="old", after_seconds=11).call_id == "two"
    assert reserve(store, "two", key="new", after_seconds=11).call_id == "one"


def test_one_of_many_concurrent_calls_reserves_the_key(store):
    """Sixteen threads with one key agree on one call."""
    call_ids: list[str | None] = []
    barrier = threading.Barrier(16)

    def call(name: str) -> None:
        barrier.wait()
        call_ids.append(reserve(store, name).call_id)

    threads = [threading.Thread(target=call, args=(f"call-{number}",)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(call_ids) == 16
    assert len(set(call_ids)) == 1
