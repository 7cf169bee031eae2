"""One suite for every `IdempotencyStore`."""

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
ANSWER = StoredResponse(201, {"content-type": "application/json", "location": "/x"}, b'{"a": "\xc3\xa9"}')


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
    store: IdempotencyStore, holder: str, *, fingerprint: str = "f", after_seconds: float = 0, key: str = "k"
) -> IdempotencyRecord:
    now = NOW + timedelta(seconds=after_seconds)
    return store.reserve(
        key,
        fingerprint,
        holder=holder,
        now=now,
        stale_before=now - timedelta(seconds=60),
        kept_since=now - timedelta(hours=24),
    )


def test_the_first_call_has_the_key(store):
    """And the key knows since when."""
    assert reserve(store, "one") == IdempotencyRecord("k", "f", NOW, "one", None)


def test_a_second_call_finds_the_first_at_work(store):
    """Whatever it asks for."""
    reserve(store, "one")

    assert reserve(store, "two").holder == "one"
    assert reserve(store, "two", fingerprint="g").fingerprint == "f"


def test_an_answer_is_kept_as_it_was(store):
    """Status, headers and bytes; it does not become stale."""
    reserve(store, "one")
    store.answer("k", "one", ANSWER)

    assert reserve(store, "two", after_seconds=3600) == IdempotencyRecord("k", "f", NOW, "one", ANSWER)


def test_a_dead_call_is_followed_by_the_same_request(store):
    """After a minute the same request may take the key; since when the key is known does not change."""
    reserve(store, "one")

    assert reserve(store, "two", after_seconds=59).holder == "one"
    assert reserve(store, "two", after_seconds=61) == IdempotencyRecord("k", "f", NOW, "two", None)


def test_a_dead_call_is_not_followed_by_another_request(store):
    """It may have been done."""
    reserve(store, "one")

    assert reserve(store, "two", fingerprint="g", after_seconds=61).holder == "one"


def test_a_call_that_was_followed_cannot_answer(store):
    """The later one answers."""
    reserve(store, "one")
    reserve(store, "two", after_seconds=61)
    store.answer("k", "one", ANSWER)

    assert reserve(store, "three", after_seconds=62).answer is None


def test_a_key_that_is_given_back_is_free_for_the_same_request(store):
    """At once, and only for it; since when it is known does not change."""
    reserve(store, "one")
    store.give_back("k", "one")

    assert reserve(store, "two", fingerprint="g").holder is None
    assert reserve(store, "two", after_seconds=1) == IdempotencyRecord("k", "f", NOW, "two", None)


def test_a_key_that_is_forgotten_is_free_for_any_request(store):
    """As if it had never come."""
    reserve(store, "one")
    store.forget("k", "two")
    assert reserve(store, "three").holder == "one"
    store.forget("k", "one")

    assert reserve(store, "two", fingerprint="g").holder == "two"


def test_a_key_is_forgotten_after_a_day(store):
    """Whether it was pruned or not."""
    reserve(store, "one")
    store.answer("k", "one", ANSWER)

    assert reserve(store, "two", fingerprint="g", after_seconds=86_401).holder == "two"


def test_old_keys_are_pruned(store):
    """Those that came before; the others stay."""
    reserve(store, "one", key="old")
    reserve(store, "one", key="new", after_seconds=10)

    assert store.prune(kept_since=NOW + timedelta(seconds=5)) == 1
    assert reserve(store, "two", key="old", after_seconds=11).holder == "two"
    assert reserve(store, "two", key="new", after_seconds=11).holder == "one"


def test_of_calls_at_the_same_time_one_has_the_key(store):
    """Sixteen threads, one key: all agree on one holder."""
    holders: list[str | None] = []
    barrier = threading.Barrier(16)

    def call(name: str) -> None:
        barrier.wait()
        holders.append(reserve(store, name).holder)

    threads = [threading.Thread(target=call, args=(f"call-{number}",)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(holders) == 16
    assert len(set(holders)) == 1
