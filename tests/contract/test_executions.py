"""What the store of executions promises, in memory, on SQLite and on PostgreSQL."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.events import SqlEvents, insert_events
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.migrate import migrate
from upshot.domain.event import Actor, Cause, Event, EventKind
from upshot.domain.execution import AttemptState, Execution, ExecutionState, Receipt, StepPhase, StepRecord
from upshot.errors import Conflict, InvalidInput, NotFound
from upshot.ids import DeliveryId, EventId, ExecutionId, RevisionId, WorkerId
from upshot.ports.executions import Admission, Claim, ExecutionQuery, ExecutionUpdate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=30)
MUCH_LATER = NOW + timedelta(seconds=90)


@dataclass
class Stores:
    executions: Any
    events: Any
    accept: Any  #: accepts events by id


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def stores(request, tmp_path):
    """The stores, with one event accepted: `evt_1`."""
    if request.param == "memory":
        events = MemoryEvents()
        made = Stores(MemoryExecutions(events), events, lambda *ids: events.add([event(one) for one in ids], NOW))
        made.accept("evt_1")
        yield made
        return
    if request.param == "sqlite":
        database = Database(sqlite_url(tmp_path / "upshot.db"))
    else:
        database = Database(request.getfixturevalue("postgres").new_database())
    migrate(database)

    def accept(*ids):
        database.write(lambda connection: insert_events(connection, [event(one) for one in ids], NOW))

    accept("evt_1")
    yield Stores(SqlExecutions(database), SqlEvents(database), accept)
    database.close()


def event(name):
    return Event(
        id=name,
        kind=EventKind.CUSTOM,
        time=NOW,
        subject="nightly",
        actor=Actor("ann"),
        mutation_id="mut_1",
        sequence=0,
        data={},
        name="nightly",
    )


def execution(name="exe_1", **changes) -> Execution:
    made = Execution(
        id=name,
        automation="promote",
        revision_id=RevisionId("r1"),
        event_id=EventId("evt_1"),
        state=ExecutionState.RUNNING,
        created_at=NOW,
        steps=(StepRecord("send", "webhook"), StepRecord("tell", "slack", phase=StepPhase.ON_FAILURE)),
        lease_owner_id=WorkerId("w1"),
        lease_until=LATER,
        fence=1,
    )
    return replace(made, **changes)


def waiting(name="exe_1", **changes) -> Execution:
    state = {"state": ExecutionState.WAITING, "due_at": NOW, "reason": "503", "lease_owner_id": None, "lease_until": None}
    return execution(name, **(state | changes))


def receipt(number=1, **changes) -> Receipt:
    made = Receipt(
        execution_id=ExecutionId("exe_1"),
        step_id="send",
        attempt=number,
        state=AttemptState.UNREACHABLE,
        delivery_id=DeliveryId("dlv_1"),
        started_at=NOW + timedelta(seconds=number),
        took_seconds=0.25,
        worker_id=WorkerId("w1"),
        request={"method": "POST", "url": "https://example.com", "headers": {"a": "b"}, "body": "ü"},
        response={"status": 503, "body": "a\x00b"},
        error="503",
        wait_seconds=4.0,
        timings={"connect": 0.1},
    )
    return replace(made, **changes)


def admit(stores, *executions):
    return stores.executions.admit([Admission(EventId("evt_1"), executions)], NOW)


def find(stores, name="exe_1"):
    return stores.executions.find(name)


def test_what_is_admitted_can_be_found(stores):
    """Every field comes back as it was written."""
    full = execution(
        steps=(
            StepRecord(
                "send",
                "webhook",
                state=ExecutionState.FAILED,
                reason="404",
                attempts=3,
                failures=2,
                losses=1,
                continued=True,
                outputs={"status": 404, "body": {"nested": ["ü", None, 1.5]}},
                started_at=NOW,
                finished_at=LATER,
            ),
        ),
        reason="because",
        due_at=NOW,
        finished_at=MUCH_LATER,
    )
    assert admit(stores, full) == {"exe_1"}
    assert find(stores) == (full, ())
    assert find(stores, "exe_2") is None


def test_admitting_again_changes_nothing(stores):
    """The same event twice makes one execution; the second admission says that nothing is new."""
    admit(stores, execution())
    assert admit(stores, execution(lease_owner_id="w2"), execution("exe_2")) == {"exe_2"}
    assert find(stores)[0].lease_owner_id == "w1"


def test_an_admission_marks_its_event_as_matched(stores):
    """Also when nothing answers it: an event that was looked at is not relayed."""
    stores.accept("evt_2")
    stores.executions.admit([Admission(EventId("evt_2"), ())], NOW)
    unmatched = stores.events.take_unmatched(published_before=LATER, now=LATER, limit=10)
    assert [one.id for one in unmatched] == ["evt_1"]


def test_a_leased_execution_cannot_be_claimed(stores):
    """One holder at a time."""
    admit(stores, execution())
    assert stores.executions.claim(["exe_1"], worker_id="w2", now=NOW, until=LATER) == ()


def test_a_lost_lease_can_be_claimed_and_names_who_lost_it(stores):
    """The fence grows, so the one that lost it is refused."""
    admit(stores, execution())
    (claim,) = stores.executions.claim(["exe_1"], worker_id="w2", now=MUCH_LATER, until=MUCH_LATER + timedelta(seconds=30))
    assert claim.lost_by_worker_id == "w1"
    assert (claim.execution.lease_owner_id, claim.execution.fence) == ("w2", 2)
    assert find(stores)[0] == claim.execution


def test_a_waiting_execution_is_claimed_when_it_is_due(stores):
    """Not before; a claim from waiting was lost by nobody."""
    admit(stores, waiting(due_at=LATER))
    assert stores.executions.claim(["exe_1"], worker_id="w2", now=NOW, until=LATER) == ()
    (claim,) = stores.executions.claim(["exe_1", "exe_none"], worker_id="w2", now=LATER, until=MUCH_LATER)
    expected = waiting(
        state=ExecutionState.RUNNING, due_at=None, reason=None, lease_owner_id="w2", lease_until=MUCH_LATER, fence=2
    )
    assert claim == Claim(expected, lost_by_worker_id=None)


def test_a_claim_is_given_once(stores):
    """Two workers that were rung for the same execution: one of them gets it."""
    admit(stores, waiting())
    assert len(stores.executions.claim(["exe_1"], worker_id="w2", now=NOW, until=LATER)) == 1
    assert stores.executions.claim(["exe_1"], worker_id="w3", now=NOW, until=LATER) == ()


def test_progress_is_written_with_its_receipts(stores):
    """State and proof in one go."""
    admit(stores, execution())
    after = waiting(due_at=LATER)
    assert stores.executions.record([ExecutionUpdate(after, (receipt(1),))]) == frozenset()
    assert find(stores) == (after, (receipt(1),))


def test_a_write_behind_the_fence_is_refused_but_its_receipts_are_kept(stores):
    """What was sent was sent, whoever holds the lease now."""
    admit(stores, execution())
    (claim,) = stores.executions.claim(["exe_1"], worker_id="w2", now=MUCH_LATER, until=MUCH_LATER + timedelta(seconds=9))
    late = execution(state=ExecutionState.SUCCEEDED, finished_at=MUCH_LATER)
    assert stores.executions.record([ExecutionUpdate(late, (receipt(1),))]) == {"exe_1"}
    assert find(stores) == (claim.execution, (receipt(1),))


def test_what_an_execution_gives_rise_to_is_accepted_with_its_state(stores):
    """The event of a failure is there exactly if the failure is."""
    admit(stores, execution("exe_1"), execution("exe_2"))
    failed = {"state": ExecutionState.FAILED, "finished_at": LATER, "lease_owner_id": None, "lease_until": None}
    stores.executions.record(
        [
            ExecutionUpdate(execution("exe_1", **failed), events=(event("evt_f1"),)),
            ExecutionUpdate(execution("exe_2", fence=7, **failed), events=(event("evt_f2"),)),
        ]
    )
    assert set(stores.events.get(["evt_f1", "evt_f2"])) == {"evt_f1"}


def test_what_failed_from_the_start_says_so_once(stores):
    """An admission that is repeated accepts its events no second time."""
    one = execution("exe_1", state=ExecutionState.FAILED, lease_owner_id=None, lease_until=None)
    caused = replace(event("evt_f1"), chain=(Cause("promote", ExecutionId("exe_1"), EventId("evt_1"), None),))
    again = replace(caused, id="evt_f2")
    stores.executions.admit([Admission(EventId("evt_1"), (one,), (caused,))], NOW)
    stores.executions.admit([Admission(EventId("evt_1"), (one,), (again,))], NOW)
    assert set(stores.events.get(["evt_f1", "evt_f2"])) == {"evt_f1"}


def test_a_receipt_is_never_overwritten(stores):
    """A worker that was taken for dead cannot change what was kept of its attempt."""
    admit(stores, execution())
    stores.executions.record([ExecutionUpdate(execution(), (receipt(1, error="first"),))])
    stores.executions.record([ExecutionUpdate(execution(), (receipt(1, error="second"),))])
    assert [one.error for one in find(stores)[1]] == ["first"]


def test_a_batch_is_written_whole_though_one_is_refused(stores):
    """One refusal does not hold up the others."""
    admit(stores, execution("exe_1"), execution("exe_2"))
    done = {"state": ExecutionState.SUCCEEDED, "finished_at": LATER, "lease_owner_id": None, "lease_until": None}
    refused = stores.executions.record(
        [ExecutionUpdate(execution("exe_2", **done)), ExecutionUpdate(execution("exe_1", fence=7, **done))]
    )
    assert refused == {"exe_1"}
    assert find(stores, "exe_2")[0].state is ExecutionState.SUCCEEDED
    assert find(stores, "exe_1")[0].state is ExecutionState.RUNNING


def test_whatever_a_text_holds_it_is_kept_to_the_letter(stores):
    """In every row of a batch, and where the database gets the rows as one text."""
    texts = (
        '"',
        "\\",
        "\\u0041",
        "a\n\tb\x01",
        "ü \N{ROCKET} \u2028",
        "'; --",
        "%s %(a)s :b {c}",
        "null",
        "",
        "x" * 5000,
    )
    admit(stores, *(execution(f"exe_{number}") for number in range(len(texts))))
    after = [
        waiting(f"exe_{number}", reason=text, steps=(StepRecord("send", "webhook", outputs={"body": text}),))
        for number, text in enumerate(texts)
    ]
    kept = [receipt(execution_id=one.id, response={"body": one.reason}) for one in after]
    stores.executions.record([ExecutionUpdate(one, (proof,)) for one, proof in zip(after, kept, strict=True)])
    assert [find(stores, one.id) for one in after] == [(one, (proof,)) for one, proof in zip(after, kept, strict=True)]


def test_what_was_never_admitted_is_refused_and_not_made(stores):
    """Progress changes executions, whatever else is in the batch; it makes none."""
    admit(stores, execution())
    batch = [ExecutionUpdate(waiting(due_at=LATER)), ExecutionUpdate(waiting("exe_2"))]
    assert stores.executions.record(batch) == {"exe_2"}
    assert find(stores)[0] == waiting(due_at=LATER)
    assert find(stores, "exe_2") is None


def test_a_lease_is_renewed_by_its_owner_only(stores):
    """Another worker's heartbeat does not keep it."""
    admit(stores, execution())
    stores.executions.renew(["exe_1"], worker_id="w2", until=MUCH_LATER)
    assert find(stores)[0].lease_until == LATER
    stores.executions.renew(["exe_1"], worker_id="w1", until=MUCH_LATER)
    assert find(stores)[0].lease_until == MUCH_LATER
    stores.executions.renew([], worker_id="w1", until=MUCH_LATER)


def test_what_is_due_or_lost_is_found_once_until_nobody_came(stores):
    """A ring is not repeated while it may still be heard; then it is found again, marked as rung before."""
    stores.accept("evt_2", "evt_3")
    admit(
        stores,
        waiting("exe_1", due_at=NOW),
        waiting("exe_2", due_at=MUCH_LATER),
        execution("exe_3", lease_until=NOW - timedelta(seconds=1)),
        execution("exe_4", lease_until=MUCH_LATER),
    )

    def take(now, notified_before):
        found = stores.executions.take_due(now=now, notified_before=notified_before, limit=10)
        return {(one.execution_id, one.notified_before) for one in found}

    assert take(NOW, NOW - timedelta(seconds=5)) == {("exe_1", False), ("exe_3", False)}
    assert take(NOW, NOW - timedelta(seconds=5)) == set()
    assert take(NOW + timedelta(seconds=6), NOW + timedelta(seconds=1)) == {("exe_1", True), ("exe_3", True)}


def test_what_is_due_first_is_found_first(stores):
    """With a limit, the longest due come first."""
    admit(stores, *(waiting(f"exe_{number}", due_at=NOW - timedelta(seconds=number)) for number in range(5)))
    found = stores.executions.take_due(now=NOW, notified_before=NOW, limit=2)
    assert [one.execution_id for one in found] == ["exe_4", "exe_3"]


def test_progress_forgets_the_ring(stores):
    """An execution that waits again is rung for again when it is due."""
    admit(stores, waiting())
    stores.executions.take_due(now=NOW, notified_before=NOW, limit=1)
    (claim,) = stores.executions.claim(["exe_1"], worker_id="w2", now=NOW, until=LATER)
    stores.executions.record([ExecutionUpdate(waiting(fence=claim.execution.fence))])
    (due,) = stores.executions.take_due(now=NOW, notified_before=NOW, limit=1)
    assert not due.notified_before


def test_a_person_changes_an_execution_and_its_worker_is_refused(stores):
    """Cancelling a running execution: the worker's later write finds a newer fence."""
    admit(stores, execution())
    cancelled = stores.executions.amend(
        "exe_1", lambda one: replace(one, state=ExecutionState.CANCELLED, lease_owner_id=None, lease_until=None)
    )
    assert cancelled.fence == 2
    assert find(stores)[0] == cancelled
    assert stores.executions.record([ExecutionUpdate(execution(state=ExecutionState.SUCCEEDED))]) == {"exe_1"}


def test_a_change_that_is_refused_writes_nothing(stores):
    """What the change raises comes through."""
    admit(stores, execution())

    def refuse(_):
        raise Conflict("no")

    with pytest.raises(Conflict):
        stores.executions.amend("exe_1", refuse)
    assert find(stores)[0] == execution()
    with pytest.raises(NotFound, match="exe_none"):
        stores.executions.amend("exe_none", lambda one: one)


def test_a_dead_workers_leases_are_ended(stores):
    """They can be claimed a moment later, without waiting for their end."""
    admit(stores, execution("exe_1"), execution("exe_2", lease_owner_id="w2"))
    assert stores.executions.expire("w1", NOW) == 1
    soon = NOW + timedelta(milliseconds=1)
    claims = stores.executions.claim(["exe_1", "exe_2"], worker_id="w3", now=soon, until=LATER)
    assert [(claim.execution.id, claim.lost_by_worker_id) for claim in claims] == [("exe_1", "w1")]


def test_executions_are_listed_newest_first_and_page_by_page(stores):
    """Walking the cursor gives everything once."""
    admit(stores, *(execution(f"exe_{number}") for number in range(5)))
    first = stores.executions.page(ExecutionQuery(), cursor=None, limit=2)
    second = stores.executions.page(ExecutionQuery(), cursor=first.next, limit=2)
    third = stores.executions.page(ExecutionQuery(), cursor=second.next, limit=2)
    assert [one.id for page in (first, second, third) for one in page.items] == [f"exe_{n}" for n in (4, 3, 2, 1, 0)]
    assert third.next is None
    with pytest.raises(InvalidInput, match="cursor"):
        stores.executions.page(ExecutionQuery(), cursor="%%%", limit=2)


def test_executions_are_found_by_event_automation_and_state(stores):
    """Each filter alone and all together."""
    stores.accept("evt_2")
    admit(stores, execution("exe_1"), waiting("exe_2", automation="tell"))
    stores.executions.admit([Admission(EventId("evt_2"), (execution("exe_3", event_id="evt_2"),))], NOW)

    def found(**query):
        return {one.id for one in stores.executions.page(ExecutionQuery(**query), cursor=None, limit=9).items}

    assert found(event_id="evt_1") == {"exe_1", "exe_2"}
    assert found(automation="tell") == {"exe_2"}
    assert found(state=ExecutionState.RUNNING) == {"exe_1", "exe_3"}
    assert found(event_id="evt_1", automation="promote", state=ExecutionState.RUNNING) == {"exe_1"}


def test_old_receipts_of_final_executions_are_removed(stores):
    """Those of an execution that still goes on are kept, whatever their age."""
    stores.accept("evt_2")
    admit(stores, execution("exe_1"), execution("exe_2"))
    done = execution("exe_1", state=ExecutionState.SUCCEEDED, lease_owner_id=None, lease_until=None)
    stores.executions.record(
        [
            ExecutionUpdate(done, (receipt(1), receipt(2))),
            ExecutionUpdate(execution("exe_2"), (receipt(1, execution_id="exe_2"),)),
        ]
    )
    assert stores.executions.prune(receipts_before=NOW + timedelta(seconds=2)) == 1
    assert [one.attempt for one in find(stores, "exe_1")[1]] == [2]
    assert [one.attempt for one in find(stores, "exe_2")[1]] == [1]
