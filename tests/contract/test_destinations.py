"""Contract of the store of destinations: in memory, on SQLite and on PostgreSQL."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.contract.databases import KINDS, open_database
from tests.contract.test_executions import NOW, event, execution
from upshot.adapters.memory.destinations import MemoryDestinations
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.sql.destinations import SqlDestinations
from upshot.adapters.sql.events import SqlEvents, insert_events
from upshot.adapters.sql.executions import SqlExecutions
from upshot.domain.execution import ExecutionState
from upshot.ids import EventId
from upshot.ports.destinations import Destination, DestinationReport
from upshot.ports.executions import Admission

HOOKS = "https://hooks.example:443 TOKEN"
UP = DestinationReport(HOOKS, is_down=False, reason=None, in_progress=3, limit=20, probe_at=None)
DOWN = replace(UP, is_down=True, reason="20 attempts in a row failed", probe_at=NOW + timedelta(seconds=5))
OLD = NOW - timedelta(seconds=15)


@pytest.fixture(params=["memory", *KINDS])
def stores(request):
    """Return the stores of destinations, events and executions, with one accepted event: `evt_1`."""
    if request.param == "memory":
        events = MemoryEvents()
        executions = MemoryExecutions(events)
        events.add([event("evt_1")], NOW)
        return MemoryDestinations(executions), events, executions
    database = open_database(request.param, request)
    database.write(lambda connection: insert_events(connection, [event("evt_1")], NOW))
    return SqlDestinations(database), SqlEvents(database), SqlExecutions(database)


def listed(destinations, seen_since=OLD):
    return destinations.list(seen_since=seen_since)


def test_the_reports_of_all_workers_are_combined(stores):
    """A destination is down if it is down for one worker. Numbers of attempts are added up."""
    destinations, _, executions = stores
    waiting = execution(state=ExecutionState.WAITING, waits_for=HOOKS, lease_owner_id=None, lease_until=None)
    executions.admit([Admission(EventId("evt_1"), (waiting,))], NOW)
    destinations.report("w1", [UP, replace(UP, name="https://a.example:443")], NOW)
    destinations.report("w2", [DOWN], NOW)
    assert listed(destinations) == (
        Destination("https://a.example:443", False, None, 3, 20, 0, None),
        Destination(HOOKS, True, DOWN.reason, 6, 40, 1, DOWN.probe_at),
    )


def test_a_report_replaces_the_previous_one(stores):
    """An empty report removes the worker's destinations. A worker without a report for long does not count."""
    destinations, _, _ = stores
    destinations.report("w1", [DOWN], NOW)
    assert listed(destinations, seen_since=NOW + timedelta(seconds=1)) == ()
    destinations.report("w1", [], NOW)
    assert listed(destinations) == ()


def test_a_change_accepts_one_event_for_all_workers(stores):
    """The first worker for which a destination is down or up accepts the event. The others learn that it is up."""
    destinations, events, _ = stores

    def change(worker_id, report, event_id):
        return destinations.change(worker_id, report, event(event_id), seen_since=OLD)

    assert change("w1", DOWN, "evt_2")
    assert not change("w2", DOWN, "evt_3")
    assert change("w1", UP, "evt_4")
    assert destinations.report("w2", [DOWN], NOW) == (HOOKS,)
    assert not listed(destinations)[0].is_down
    assert not change("w2", UP, "evt_5")
    assert set(events.get(["evt_2", "evt_3", "evt_4", "evt_5"])) == {"evt_2", "evt_4"}


def test_a_release_reaches_each_worker_once(stores):
    """Each worker learns at its next report that a user has released the destination."""
    destinations, _, _ = stores
    destinations.report("w1", [DOWN], NOW)
    destinations.report("w2", [DOWN], NOW)
    destinations.release(HOOKS, NOW)
    assert destinations.report("w1", [DOWN], NOW) == (HOOKS,)
    assert destinations.report("w1", [DOWN], NOW) == ()
    assert destinations.report("w2", [], NOW) == (HOOKS,)
