"""Contract of the stores of automation sets: in memory, on SQLite and on PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.databases import KINDS, open_database
from upshot.adapters.memory.automation_sets import MemoryAutomationSets
from upshot.adapters.sql.automation_sets import SqlAutomationSets
from upshot.ids import RevisionId, WorkerId
from upshot.ports.automation_sets import Holding, KnownSets, SetMember, SetQuality

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTENT = {"promote": SetMember(RevisionId("r1"), enabled=True), "notify": SetMember(RevisionId("r2"), enabled=False)}
HOLDING = Holding(WorkerId("w1"), "host:/automations", "d1", SetQuality.SOUND, NOW)


def following(known):
    """Return the next number."""
    return max(known.numbers.values(), default=0) + 1


@pytest.fixture(params=["memory", *KINDS])
def store(request):
    if request.param == "memory":
        return MemoryAutomationSets()
    return SqlAutomationSets(open_database(request.param, request))


def test_a_holding_is_stored_and_replaced(store):
    """Every field is stored. A worker has one holding."""
    assert store.read() == KnownSets()
    store.hold(HOLDING)
    changed = replace(HOLDING, digest="d2", quality=SetQuality.PARTIAL, matches=True, difference="without a")
    store.hold(changed)
    assert store.read() == KnownSets({}, {WorkerId("w1"): changed})

    store.end(WorkerId("w1"))
    store.end(WorkerId("unknown"))
    assert store.read().holdings[WorkerId("w1")] == replace(changed, has_ended=True)


def test_a_set_gets_the_next_number_and_keeps_its_content(store):
    """A set that gets another number has the newer content."""
    store.assign_number(HOLDING, CONTENT, following)
    known = store.assign_number(replace(HOLDING, digest="d2"), {}, following)
    assert known.numbers == {"d1": 1, "d2": 2}
    assert known.holdings[WorkerId("w1")].digest == "d2"
    assert store.content("d1") == CONTENT
    assert store.content("unknown") == {}

    assert store.assign_number(HOLDING, CONTENT, following).numbers == {"d1": 3, "d2": 2}


def test_a_number_that_is_not_needed_any_more_is_not_assigned(store):
    """The decision is made with what is known when it is the worker's turn."""
    store.assign_number(HOLDING, CONTENT, following)
    known = store.assign_number(
        replace(HOLDING, worker_id=WorkerId("w2")), CONTENT, lambda known: None if known.numbers else 1
    )
    assert known.numbers == {"d1": 1}
    assert set(known.holdings) == {"w1"}


def test_provisional_numbers_are_stored_and_forgotten(store):
    """A provisional number is zero or less. It is not a number for people, and goes when nobody has the set."""
    known = store.assign_number(HOLDING, CONTENT, lambda _: 0)
    assert known.numbers == {"d1": 0}
    assert known.number_of("d1") is None
    assert store.content("d1") == CONTENT

    known = store.assign_number(replace(HOLDING, digest="d2"), CONTENT, lambda _: 1)
    assert known.number_of("d2") == 1
    if not isinstance(store, MemoryAutomationSets):
        assert known.numbers == {"d2": 1}


def test_workers_that_want_a_number_at_the_same_time_take_turns(store):
    """Each set gets a number of its own, and a set that two workers report gets one."""
    holdings = [replace(HOLDING, worker_id=WorkerId(f"w{n}"), digest=f"d{n % 4}") for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(
            threads.map(
                lambda holding: store.assign_number(
                    holding, {}, lambda known: None if holding.digest in known.numbers else following(known)
                ),
                holdings,
            )
        )
    assert sorted(store.read().numbers.values()) == [1, 2, 3, 4]


def test_old_numbers_and_holdings_are_forgotten(store):
    """The tables do not grow with every edit."""
    for number in range(103):
        at = NOW + timedelta(days=2 if number else 0)
        worker_id = WorkerId("new" if number else "old")
        holding = replace(HOLDING, worker_id=worker_id, digest=f"d{number}", held_at=at)
        store.assign_number(holding, {}, following)
    known = store.read()
    assert max(known.numbers.values()) == 103
    if not isinstance(store, MemoryAutomationSets):
        assert len(known.numbers) == 100
        assert set(known.holdings) == {"new"}
