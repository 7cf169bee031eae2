"""One event leads to a limited number of executions and events, in memory, on SQLite and on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.databases import KINDS, open_database
from tests.contract.test_executions import MUCH_LATER, NOW, event, execution
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.events import SqlEvents, insert_events
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.registry import SqlRegistry
from upshot.clock import FrozenClock
from upshot.domain.event import Actor, ActorKind, Cause, Origin
from upshot.domain.execution import ExecutionState
from upshot.errors import BudgetExhausted, NotFound
from upshot.ids import EventId, ExecutionId
from upshot.ports.events import EventQuery
from upshot.ports.executions import Admission, RootBudget
from upshot.registry.service import Registry

ROOT = EventId("evt_1")
BUDGET = RootBudget(ROOT, max_executions=5)
CAUSE = Cause("fan-out", ExecutionId("exe_0"), ROOT, None)
AUTOMATION = Origin(Actor("fan-out", ActorKind.AUTOMATION), (CAUSE,))


class Stores:
    """The stores, with the root event, which one execution answers."""

    events: Any
    executions: Any

    def __init__(self, kind, request):
        registry: Any
        if kind == "memory":
            self.events = MemoryEvents()
            self.executions, registry = MemoryExecutions(self.events), MemoryRegistry(self.events)
            self.events.add([event(ROOT)], NOW)
        else:
            database = open_database(kind, request)
            self.events, self.executions = SqlEvents(database), SqlExecutions(database)
            registry = SqlRegistry(database)
            database.write(lambda connection: insert_events(connection, [event(ROOT)], NOW))
        self.registry = Registry(registry, MemoryStream(), FrozenClock(), max_root_events=3)
        self.admit(ROOT, execution("exe_0"), budget=None)

    def caused(self, count):
        """Emit events as an automation that answers the root event, and return their ids."""
        return [accepted.id for accepted in self.registry.emit([("step", {})] * count, origin=AUTOMATION)]

    def admit(self, event_id, *executions, budget=BUDGET, failures=()):
        answering = tuple(replace(answer, event_id=event_id) for answer in executions)
        return self.executions.admit([Admission(event_id, answering, failures, budget)], NOW)

    def state(self, execution_id):
        return self.executions.find(execution_id)[0].state

    def warning(self):
        return self.events.find(ROOT).warning


@pytest.fixture(params=["memory", *KINDS])
def stores(request):
    return Stores(request.param, request)


def numbered(*numbers):
    return [execution(f"exe_{number}") for number in numbers]


def test_executions_over_the_budget_are_skipped(stores):
    """The budget includes the executions of the root event itself. The reason names the event and the maximum."""
    (caused,) = stores.caused(1)

    result = stores.admit(caused, *numbered(1, 2, 3, 4, 5, 6))

    assert result.accepted == {"exe_1", "exe_2", "exe_3", "exe_4"}
    skipped = stores.executions.find("exe_5")[0]
    assert (skipped.state, skipped.lease_owner_id, skipped.finished_at) == (ExecutionState.SKIPPED, None, NOW)
    assert skipped.reason == "event evt_1 has led to 5 executions, which is the maximum"
    assert {step.state for step in skipped.steps} == {ExecutionState.SKIPPED}
    assert stores.executions.claim(["exe_5", "exe_6"], worker_id="w2", now=MUCH_LATER, until=MUCH_LATER) == ()


def test_an_exhausted_budget_is_reported_once(stores):
    """The first admission that exceeds the budget reports it, and the root event has a warning."""
    first, second = stores.caused(2)
    assert stores.warning() is None

    assert stores.admit(first, *numbered(1, 2, 3, 4, 5)).exhausted == (BUDGET,)
    assert stores.admit(second, *numbered(6, 7)).exhausted == ()
    assert stores.warning() == (
        "this event has led to 5 executions, which is the maximum (UPSHOT_ROOT_EXECUTIONS); "
        "further executions are skipped"
    )


def test_an_event_that_arrives_twice_is_counted_once(stores):
    """A second copy of an event in the stream does not use the budget."""
    first, second = stores.caused(2)
    for _ in range(3):
        stores.admit(first, *numbered(1, 2))
    assert stores.admit(second, *numbered(3, 4)).accepted == {"exe_3", "exe_4"}
    assert stores.warning() is None


def test_an_execution_that_was_skipped_as_a_loop_is_not_counted(stores):
    """It does nothing, so it cannot lead to anything."""
    (caused,) = stores.caused(1)
    loops = [replace(loop, state=ExecutionState.SKIPPED, lease_owner_id=None) for loop in numbered(1, 2, 3, 4)]
    assert "exe_8" in stores.admit(caused, *loops, *numbered(5, 6, 7, 8)).accepted


def test_a_failure_over_the_budget_has_no_event(stores):
    """An execution whose `if` failed is skipped like the others, and nothing answers it."""
    (caused,) = stores.caused(1)
    stores.admit(caused, *numbered(1, 2, 3, 4))
    failed = execution("exe_9", state=ExecutionState.FAILED, lease_owner_id=None, lease_until=None)
    failure = replace(event("evt_f"), chain=(CAUSE, replace(CAUSE, execution_id=ExecutionId("exe_9"))))

    stores.admit(caused, failed, failures=(failure,))

    assert stores.state("exe_9") is ExecutionState.SKIPPED
    assert stores.events.get(["evt_f"]) == {}


def test_an_event_that_many_automations_answer_directly_has_the_same_budget(stores):
    """Its executions are counted in the admission that exceeds the budget."""
    (other,) = (accepted.id for accepted in stores.registry.emit([("go", {})], origin=Origin(Actor("ann"))))
    budget = RootBudget(other, max_executions=5)
    result = stores.admit(other, *numbered(1, 2, 3, 4, 5, 6), budget=budget)
    assert len(result.accepted) == 5
    assert result.exhausted == (budget,)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_share_the_budget(kind, request):
    """Executions that several workers admit at the same time are counted exactly."""
    stores = Stores(kind, request)
    caused = [*stores.caused(2), *stores.caused(1)]
    budget = RootBudget(ROOT, max_executions=31)

    def admit(number):
        return stores.admit(caused[number % 3], execution(f"exe_{number}"), budget=budget)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(admit, [*range(1, 61), *range(1, 61)]))

    assert sum(len(result.accepted) for result in results) == 30
    assert sum(len(result.exhausted) for result in results) == 1


def test_a_change_over_the_budget_of_events_is_not_made(stores):
    """The change is refused as a whole, with the event that began it, and a smaller one still fits."""
    stores.caused(2)

    with pytest.raises(BudgetExhausted, match=r"event evt_1 has led to 3 events .* raise UPSHOT_ROOT_EVENTS"):
        stores.caused(2)

    assert "UPSHOT_ROOT_EVENTS" in stores.warning()
    stores.caused(1)
    with pytest.raises(BudgetExhausted):
        stores.registry.log_artifact("team", "churn", "model", manifest={"m": "sha256:1"}, origin=AUTOMATION)
    with pytest.raises(NotFound, match="there is no project 'team'"):
        stores.registry.artifacts("team", cursor=None, limit=10)
    emitted = stores.events.page(EventQuery(name="step"), cursor=None, limit=10).items
    assert len(emitted) == 3


def test_events_of_people_are_not_counted(stores):
    """Only automations and jobs have a budget."""
    stores.registry.emit([("step", {})] * 10, origin=Origin(Actor("ann")))
    assert len(stores.caused(3)) == 3


def test_repeating_an_emit_does_not_use_the_budget(stores):
    """A step that is attempted again emits the same event, which was counted."""
    event_id = EventId("evt_01kdwpvng00000000000000009")
    for _ in range(5):
        stores.registry.emit([("step", {})], origin=AUTOMATION, event_ids=[event_id])
    assert len(stores.caused(2)) == 2
