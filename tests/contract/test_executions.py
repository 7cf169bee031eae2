"""Contract of the execution stores: in memory, on SQLite and on PostgreSQL."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from tests.contract.databases import KINDS, open_database
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.sql.events import SqlEvents, insert_events
from upshot.adapters.sql.executions import SqlExecutions
from upshot.domain.event import Actor, Cause, Event, EventKind
from upshot.domain.execution import AttemptState, Execution, ExecutionState, Receipt, StepPhase, StepRecord
from upshot.errors import Conflict, InvalidInput, NotFound
from upshot.ids import DeliveryId, EventId, ExecutionId, RevisionId, WorkerId, first_id
from upshot.ports.executions import Admission, Answer, Claim, ExecutionQuery, ExecutionUpdate, OrderedStep
from upshot.storable import ensure_storable
from upshot.unicode_text import to_storable_text

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=30)
MUCH_LATER = NOW + timedelta(seconds=90)


@dataclass
class Stores:
    executions: Any
    events: Any
    accept: Any  #: accepts events with these ids


@pytest.fixture(params=["memory", *KINDS])
def stores(request):
    """Return the stores, with one accepted event: `evt_1`."""
    if request.param == "memory":
        events = MemoryEvents()
        executions = MemoryExecutions(events)
        stores = Stores(executions, events, lambda *ids: events.add([event(event_id) for event_id in ids], NOW))
    else:
        database = open_database(request.param, request)

        def accept(*ids):
            accepted = [event(event_id) for event_id in ids]
            database.write(lambda connection: insert_events(connection, accepted, NOW))

        stores = Stores(SqlExecutions(database), SqlEvents(database), accept)
    stores.accept("evt_1")
    return stores


def event(event_id):
    return Event(
        id=event_id,
        kind=EventKind.CUSTOM,
        time=NOW,
        subject="nightly",
        actor=Actor("ann"),
        mutation_id="mut_1",
        sequence=0,
        data={},
        name="nightly",
    )


def execution(execution_id="exe_1", **changes) -> Execution:
    execution = Execution(
        id=execution_id,
        automation="promote",
        revision_id=RevisionId("r1"),
        event_id=EventId("evt_1"),
        state=ExecutionState.RUNNING,
        created_at=NOW,
        steps=(
            StepRecord("send", "webhook", name="Send it"),
            StepRecord("notify", "slack", phase=StepPhase.ON_FAILURE),
        ),
        lease_owner_id=WorkerId("w1"),
        lease_until=LATER,
        fence=1,
    )
    return replace(execution, **changes)


def waiting(execution_id="exe_1", **changes) -> Execution:
    state = {
        "state": ExecutionState.WAITING,
        "due_at": NOW,
        "reason": "503",
        "lease_owner_id": None,
        "lease_until": None,
    }
    return execution(execution_id, **(state | changes))


def receipt(attempt=1, **changes) -> Receipt:
    receipt = Receipt(
        execution_id=ExecutionId("exe_1"),
        step_id="send",
        attempt=attempt,
        state=AttemptState.UNREACHABLE,
        delivery_id=DeliveryId("dlv_1"),
        started_at=NOW + timedelta(seconds=attempt),
        took_seconds=0.25,
        worker_id=WorkerId("w1"),
        request={"method": "POST", "url": "https://example.com", "headers": {"a": "b"}, "body": "ü"},
        response={"status": 503, "body": "a\x00b"},
        error="503",
        wait_seconds=4.0,
        timings={"connect": 0.1},
    )
    return replace(receipt, **changes)


def admit(stores, *executions):
    return stores.executions.admit([Admission(EventId("evt_1"), executions)], NOW).accepted


def find(stores, execution_id="exe_1"):
    return stores.executions.find(execution_id)


def test_an_admitted_execution_can_be_found(stores):
    """Every field is stored."""
    full = execution(
        steps=(
            StepRecord(
                "send",
                "webhook",
                state=ExecutionState.FAILED,
                reason="404",
                attempt_count=3,
                failures=2,
                losses=1,
                is_invalid=True,
                continued=True,
                outputs={"status": 404, "body": {"nested": ["ü", None, 1.5]}},
                started_at=NOW,
                finished_at=LATER,
                ignores_overtaking=True,
                overtaken_by=ExecutionId("exe_2"),
            ),
        ),
        reason="because",
        due_at=NOW,
        finished_at=MUCH_LATER,
        alias_reference="model/churn:production",
    )
    assert admit(stores, full) == {"exe_1"}
    assert find(stores) == (full, ())
    assert find(stores, "exe_2") is None


def test_admitting_again_changes_nothing(stores):
    """An event that arrives twice has one execution, and the second admission returns no new id for it."""
    admit(stores, execution())
    assert admit(stores, execution(lease_owner_id="w2"), execution("exe_2")) == {"exe_2"}
    assert find(stores)[0].lease_owner_id == "w1"


def test_an_admission_marks_its_event_as_matched(stores):
    """The relay does not publish it again, even if no automation answers it."""
    stores.accept("evt_2")
    stores.executions.admit([Admission(EventId("evt_2"), ())], NOW)
    unmatched = stores.events.take_unmatched(published_before=LATER, now=LATER, limit=10)
    assert [event.id for event in unmatched] == ["evt_1"]


def test_a_leased_execution_cannot_be_claimed(stores):
    """Only one worker holds an execution at a time."""
    admit(stores, execution())
    assert stores.executions.claim(["exe_1"], worker_id="w2", now=NOW, until=LATER) == ()


def test_an_expired_lease_can_be_claimed(stores):
    """The claim names the previous worker, and the new fence rejects its writes."""
    admit(stores, execution())
    (claim,) = stores.executions.claim(
        ["exe_1"], worker_id="w2", now=MUCH_LATER, until=MUCH_LATER + timedelta(seconds=30)
    )
    assert claim.lost_by_worker_id == "w1"
    assert (claim.execution.lease_owner_id, claim.execution.fence) == ("w2", 2)
    assert find(stores)[0] == claim.execution


def test_a_waiting_execution_is_claimed_when_it_is_due(stores):
    """The claim names no previous worker. Before the due time there is no claim."""
    admit(stores, waiting(due_at=LATER))
    assert stores.executions.claim(["exe_1"], worker_id="w2", now=NOW, until=LATER) == ()
    (claim,) = stores.executions.claim(["exe_1", "exe_none"], worker_id="w2", now=LATER, until=MUCH_LATER)
    expected = waiting(
        state=ExecutionState.RUNNING, due_at=None, reason=None, lease_owner_id="w2", lease_until=MUCH_LATER, fence=2
    )
    assert claim == Claim(expected, lost_by_worker_id=None)


def test_executions_that_wait_for_room_are_claimed_with_the_oldest_event_first(stores):
    """They have no due time, and the claim says what they waited for. A count limits how many are claimed."""
    stores.accept("evt_2")
    waits = {"due_at": None, "waits_for": "https://a.example:443"}
    admit(stores, waiting("exe_9", **waits), waiting("exe_8", **(waits | {"waits_for": "automation:promote"})))
    newer = waiting("exe_1", event_id=EventId("evt_2"), **waits)
    stores.executions.admit([Admission(EventId("evt_2"), (newer,))], NOW)
    assert stores.executions.waits() == ("automation:promote", "https://a.example:443")
    assert stores.executions.take_due(now=MUCH_LATER, notified_before=MUCH_LATER, limit=10) == ()

    def claim(counts):
        return stores.executions.claim_waiting(counts, worker_id="w2", until=LATER)

    (first,) = claim({"https://a.example:443": 1, "https://none.example:443": 5})
    assert (first.execution.id, first.waited_for) == ("exe_9", "https://a.example:443")
    assert (first.execution.state, first.execution.waits_for) == (ExecutionState.RUNNING, None)
    assert find(stores, "exe_9")[0] == first.execution
    others = claim({"https://a.example:443": 5, "automation:promote": 5})
    assert {other.execution.id: other.waited_for for other in others} == {
        "exe_1": "https://a.example:443",
        "exe_8": "automation:promote",
    }
    assert claim({"https://a.example:443": 5}) == ()
    assert stores.executions.waits() == ()


def test_what_an_execution_waits_for_is_stored(stores):
    """An update stores it, and the next one removes it."""
    admit(stores, execution())
    after = waiting(due_at=None, waits_for="https://a.example:443")
    stores.executions.record([ExecutionUpdate(after)])
    assert find(stores)[0] == after
    stores.executions.record([ExecutionUpdate(execution())])
    assert find(stores)[0] == execution()


def test_only_one_worker_can_claim_an_execution(stores):
    """If two workers are notified of the same execution, one of them gets it."""
    admit(stores, waiting())
    assert len(stores.executions.claim(["exe_1"], worker_id="w2", now=NOW, until=LATER)) == 1
    assert stores.executions.claim(["exe_1"], worker_id="w3", now=NOW, until=LATER) == ()


def test_an_update_is_written_with_its_receipts(stores):
    """Both are in one transaction."""
    admit(stores, execution())
    after = waiting(due_at=LATER)
    assert stores.executions.record([ExecutionUpdate(after, (receipt(1),))]) == frozenset()
    assert find(stores) == (after, (receipt(1),))


def deep_list(levels):
    deep: list[Any] = []
    for _ in range(levels):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("NUL \x00, half a character \ud800, \udcff", id="text"),
        pytest.param([2**70, -(10**5000), float("inf"), float("nan")], id="numbers"),
        pytest.param(deep_list(245), id="almost as deep as JSON can be written"),
        pytest.param(deep_list(100_000), id="deep"),
        pytest.param({1: (NOW, {2}, b"x"), "\ud800": "\x00"}, id="keys and objects"),
    ],
)
def test_whatever_an_action_returns_can_be_recorded(stores, value):
    """Storable data is written as it is. Everything else is replaced, and none of it makes the store reject."""
    admit(stores, execution())
    outputs, response = ensure_storable(({"body": value}, {"headers": {"x": value}}))
    done = replace(execution(), steps=(replace(execution().steps[0], outputs=outputs), execution().steps[1]))
    update = ExecutionUpdate(done, (replace(receipt(), response=response, error=to_storable_text("a\x00\ud800")),))

    assert stores.executions.record([update]) == frozenset()
    assert orjson.dumps(find(stores))


def test_an_update_with_an_old_fence_is_rejected_but_its_receipts_are_stored(stores):
    """The request was sent, whichever worker holds the lease now."""
    admit(stores, execution())
    (claim,) = stores.executions.claim(
        ["exe_1"], worker_id="w2", now=MUCH_LATER, until=MUCH_LATER + timedelta(seconds=9)
    )
    late = execution(state=ExecutionState.SUCCEEDED, finished_at=MUCH_LATER)
    assert stores.executions.record([ExecutionUpdate(late, (receipt(1),))]) == {"exe_1"}
    assert find(stores) == (claim.execution, (receipt(1),))


def test_the_events_of_an_update_are_accepted_with_its_state(stores):
    """The event of a failure is accepted if and only if the failure is written."""
    admit(stores, execution("exe_1"), execution("exe_2"))
    failed = {"state": ExecutionState.FAILED, "finished_at": LATER, "lease_owner_id": None, "lease_until": None}
    stores.executions.record(
        [
            ExecutionUpdate(execution("exe_1", **failed), events=(event("evt_f1"),)),
            ExecutionUpdate(execution("exe_2", fence=7, **failed), events=(event("evt_f2"),)),
        ]
    )
    assert set(stores.events.get(["evt_f1", "evt_f2"])) == {"evt_f1"}


def test_an_execution_that_failed_from_the_start_has_one_event(stores):
    """A repeated admission does not accept its events again."""
    failed = execution("exe_1", state=ExecutionState.FAILED, lease_owner_id=None, lease_until=None)
    failure = replace(event("evt_f1"), chain=(Cause("promote", ExecutionId("exe_1"), EventId("evt_1"), None),))
    repeated = replace(failure, id="evt_f2")
    stores.executions.admit([Admission(EventId("evt_1"), (failed,), (failure,))], NOW)
    stores.executions.admit([Admission(EventId("evt_1"), (failed,), (repeated,))], NOW)
    assert set(stores.events.get(["evt_f1", "evt_f2"])) == {"evt_f1"}


def test_a_receipt_is_never_overwritten(stores):
    """A worker that lost its lease cannot change the stored receipt of its attempt."""
    admit(stores, execution())
    stores.executions.record([ExecutionUpdate(execution(), (receipt(1, error="first"),))])
    stores.executions.record([ExecutionUpdate(execution(), (receipt(1, error="second"),))])
    assert [stored.error for stored in find(stores)[1]] == ["first"]


def test_a_rejected_update_does_not_affect_its_batch(stores):
    """All other updates of the batch are written."""
    admit(stores, execution("exe_1"), execution("exe_2"))
    done = {"state": ExecutionState.SUCCEEDED, "finished_at": LATER, "lease_owner_id": None, "lease_until": None}
    rejected = stores.executions.record(
        [ExecutionUpdate(execution("exe_2", **done)), ExecutionUpdate(execution("exe_1", fence=7, **done))]
    )
    assert rejected == {"exe_1"}
    assert find(stores, "exe_2")[0].state is ExecutionState.SUCCEEDED
    assert find(stores, "exe_1")[0].state is ExecutionState.RUNNING


def test_every_text_is_stored_exactly(stores):
    """This holds for every row of a batch, even if the database gets all rows as one text."""
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
    updates = [
        ExecutionUpdate(written, (receipt(execution_id=written.id, response={"body": written.reason}),))
        for written in after
    ]
    stores.executions.record(updates)
    assert [find(stores, written.id) for written in after] == [
        (update.execution, update.receipts) for update in updates
    ]


def test_an_update_of_an_unknown_execution_is_rejected(stores):
    """An update creates no execution, whatever else is in its batch."""
    admit(stores, execution())
    batch = [ExecutionUpdate(waiting(due_at=LATER)), ExecutionUpdate(waiting("exe_2"))]
    assert stores.executions.record(batch) == {"exe_2"}
    assert find(stores)[0] == waiting(due_at=LATER)
    assert find(stores, "exe_2") is None


def test_only_the_owner_of_a_lease_can_renew_it(stores):
    """The heartbeat of another worker does not extend it."""
    admit(stores, execution())
    stores.executions.renew(["exe_1"], worker_id="w2", until=MUCH_LATER)
    assert find(stores)[0].lease_until == LATER
    stores.executions.renew(["exe_1"], worker_id="w1", until=MUCH_LATER)
    assert find(stores)[0].lease_until == MUCH_LATER
    stores.executions.renew([], worker_id="w1", until=MUCH_LATER)


def test_a_due_or_lost_execution_is_taken_again_if_no_worker_claims_it(stores):
    """The second time comes only after a while, and the result says that workers were notified before."""
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
        return {(due.execution_id, due.notified_before) for due in found}

    assert take(NOW, NOW - timedelta(seconds=5)) == {("exe_1", False), ("exe_3", False)}
    assert take(NOW, NOW - timedelta(seconds=5)) == set()
    assert take(NOW + timedelta(seconds=6), NOW + timedelta(seconds=1)) == {("exe_1", True), ("exe_3", True)}


def test_the_execution_that_was_due_first_is_taken_first(stores):
    """With a limit, the executions that have been due for the longest time are taken."""
    admit(stores, *(waiting(f"exe_{number}", due_at=NOW - timedelta(seconds=number)) for number in range(5)))
    found = stores.executions.take_due(now=NOW, notified_before=NOW, limit=2)
    assert [due.execution_id for due in found] == ["exe_4", "exe_3"]


def test_an_update_resets_the_notification(stores):
    """An execution that waits again counts as not notified."""
    admit(stores, waiting())
    stores.executions.take_due(now=NOW, notified_before=NOW, limit=1)
    (claim,) = stores.executions.claim(["exe_1"], worker_id="w2", now=NOW, until=LATER)
    stores.executions.record([ExecutionUpdate(waiting(fence=claim.execution.fence))])
    (due,) = stores.executions.take_due(now=NOW, notified_before=NOW, limit=1)
    assert not due.notified_before


def test_a_change_by_a_user_rejects_the_updates_of_the_worker(stores):
    """After a running execution is cancelled, the update of its worker finds a newer fence."""
    admit(stores, execution())
    cancelled = stores.executions.amend(
        "exe_1", lambda before: replace(before, state=ExecutionState.CANCELLED, lease_owner_id=None, lease_until=None)
    )
    assert cancelled.fence == 2
    assert find(stores)[0] == cancelled
    assert stores.executions.record([ExecutionUpdate(execution(state=ExecutionState.SUCCEEDED))]) == {"exe_1"}


def test_a_change_that_raises_an_error_writes_nothing(stores):
    """The error is passed on."""
    admit(stores, execution())

    def reject(_):
        raise Conflict("no")

    with pytest.raises(Conflict):
        stores.executions.amend("exe_1", reject)
    assert find(stores)[0] == execution()
    with pytest.raises(NotFound, match="exe_none"):
        stores.executions.amend("exe_none", lambda before: before)


def test_the_leases_of_a_dead_worker_can_be_ended(stores):
    """Its executions can be claimed at once."""
    admit(stores, execution("exe_1"), execution("exe_2", lease_owner_id="w2"))
    assert stores.executions.expire("w1", NOW) == 1
    soon = NOW + timedelta(milliseconds=1)
    claims = stores.executions.claim(["exe_1", "exe_2"], worker_id="w3", now=soon, until=LATER)
    assert [(claim.execution.id, claim.lost_by_worker_id) for claim in claims] == [("exe_1", "w1")]


def test_executions_of_a_time_are_counted_by_bucket_and_state(stores):
    """Executions of earlier events, and those created before, are left out."""
    since, minute = NOW + timedelta(hours=1), timedelta(minutes=1)
    cases = [
        (since, since),
        (since, since + timedelta(seconds=59)),
        (since, since + minute),
        (NOW, since + minute),  # a replay of an earlier event
        (since, since - minute),
    ]
    stores.executions.add(
        [
            execution(f"{first_id('exe', event_at)}{number:016}", automation=f"a{number}", created_at=created_at)
            for number, (event_at, created_at) in enumerate(cases)
        ]
    )
    stores.executions.add([waiting(f"{first_id('exe', since)}x", automation="w", created_at=since + 5 * minute)])

    assert dict(stores.executions.count_by_time(since, minute)) == {
        (0, ExecutionState.RUNNING): 2,
        (1, ExecutionState.RUNNING): 1,
        (5, ExecutionState.WAITING): 1,
    }


def test_executions_are_listed_newest_first_and_page_by_page(stores):
    """All pages together contain every execution once."""
    admit(stores, *(execution(f"exe_{number}") for number in range(5)))
    first = stores.executions.page(ExecutionQuery(), cursor=None, limit=2)
    second = stores.executions.page(ExecutionQuery(), cursor=first.next, limit=2)
    third = stores.executions.page(ExecutionQuery(), cursor=second.next, limit=2)
    assert [item.id for page in (first, second, third) for item in page.items] == [f"exe_{n}" for n in (4, 3, 2, 1, 0)]
    assert third.next is None
    with pytest.raises(InvalidInput, match="cursor"):
        stores.executions.page(ExecutionQuery(), cursor="%%%", limit=2)


def test_executions_are_found_by_event_automation_and_state(stores):
    """The filters work alone and together. Several states find the executions in any of them."""
    stores.accept("evt_2")
    admit(stores, execution("exe_1"), waiting("exe_2", automation="notify"))
    stores.executions.admit([Admission(EventId("evt_2"), (execution("exe_3", event_id="evt_2"),))], NOW)

    def found(**query):
        page = stores.executions.page(ExecutionQuery(**query), cursor=None, limit=9)
        return {item.id for item in page.items}

    assert found(event_id="evt_1") == {"exe_1", "exe_2"}
    assert found(automation="notify") == {"exe_2"}
    running, both = {ExecutionState.RUNNING}, {ExecutionState.RUNNING, ExecutionState.WAITING}
    assert found(states=running) == {"exe_1", "exe_3"}
    assert found(states=both) == found(states=both | {ExecutionState.FAILED}) == {"exe_1", "exe_2", "exe_3"}
    assert found(states={ExecutionState.FAILED, ExecutionState.SKIPPED}) == set()
    assert found(event_id="evt_1", automation="promote", states=running) == {"exe_1"}
    assert found(event_id="evt_1", states=both) == {"exe_1", "exe_2"}


def test_executions_are_found_by_time_and_by_a_part_of_their_id(stores):
    """The time is that of the end, or of the creation. The part of the id is its beginning or its end."""
    ended = {"state": ExecutionState.FAILED, "finished_at": LATER, "lease_owner_id": None, "lease_until": None}
    admit(stores, execution("exe_a1"), execution("exe_b1", **ended), execution("exe_b_2"))

    def found(**query):
        return {item.id for item in stores.executions.page(ExecutionQuery(**query), cursor=None, limit=9).items}

    assert found(since=NOW) == {"exe_a1", "exe_b1", "exe_b_2"}
    assert found(since=LATER) == {"exe_b1"}
    assert found(since=LATER + timedelta(seconds=1)) == set()
    assert found(id_part="exe_b") == {"exe_b1", "exe_b_2"}
    assert found(id_part="1") == {"exe_a1", "exe_b1"}
    assert found(id_part="b_") == found(id_part="%") == found(id_part="a") == set()
    assert found(id_part="1", states={ExecutionState.RUNNING}) == {"exe_a1"}


def test_the_answers_to_events(stores):
    """Each event has the executions that answer it, with their automations. Events without answers are left out."""
    stores.accept("evt_2")
    admit(stores, execution("exe_1"), waiting("exe_2", automation="notify"))

    assert stores.executions.answers(["evt_1", "evt_2", "evt_unknown"]) == {
        "evt_1": (Answer(ExecutionId("exe_1"), "promote"), Answer(ExecutionId("exe_2"), "notify"))
    }
    assert stores.executions.answers([]) == {}


def test_executions_are_found_by_the_time_of_their_end(stores):
    """Those that have not ended count by their creation. The end of the period is left out."""
    ended = {"state": ExecutionState.FAILED, "finished_at": LATER, "due_at": None}
    admit(
        stores, execution("exe_1", **ended), execution("exe_2", **ended | {"finished_at": MUCH_LATER}), waiting("exe_3")
    )

    def found(**query):
        page = stores.executions.page(ExecutionQuery(**query), cursor=None, limit=9)
        return {item.id for item in page.items}

    assert found(since=NOW) == {"exe_1", "exe_2", "exe_3"}
    assert found(since=LATER) == {"exe_1", "exe_2"}
    assert found(until=LATER) == {"exe_3"}
    assert found(since=LATER, until=MUCH_LATER, states={ExecutionState.FAILED}) == {"exe_1"}


def test_an_execution_that_a_user_asks_for_is_added(stores):
    """It is due, its event names it, and the executions that were there stay."""
    admit(stores, execution())
    added = waiting("exe_2", fence=0)
    stores.executions.add([added])

    assert find(stores, "exe_2") == (added, ())
    assert stores.events.find("evt_1").execution_ids == ("exe_1", "exe_2")
    (claim,) = stores.executions.claim(["exe_2"], worker_id="w2", now=NOW, until=LATER)
    assert (claim.execution.fence, claim.lost_by_worker_id) == (1, None)


def test_executions_of_an_event_that_was_never_accepted_are_left_out(stores):
    """The other events of the batch are answered, and the result names the unknown event."""
    own, foreign = execution("exe_1"), execution("exe_2", event_id="evt_foreign")
    admissions = [Admission(EventId("evt_1"), (own,)), Admission(EventId("evt_foreign"), (foreign,))]
    result = stores.executions.admit(admissions, NOW)
    assert (result.accepted, result.unknown) == ({"exe_1"}, {"evt_foreign"})
    assert find(stores, "exe_2") is None
    assert stores.executions.admit(admissions, NOW).unknown == {"evt_foreign"}


def test_an_event_that_arrives_twice_is_not_unknown(stores):
    """It changes nothing."""
    admission = Admission(EventId("evt_1"), (execution("exe_1"),))
    assert stores.executions.admit([admission], NOW).accepted == {"exe_1"}
    again = stores.executions.admit([admission], NOW)
    assert (again.accepted, again.unknown) == (frozenset(), frozenset())


def test_a_rejected_event_has_a_reason_and_is_not_published_again(stores):
    """A second rejection, and the rejection of a matched event, change nothing."""
    assert stores.executions.reject(EventId("evt_1"), "it broke", NOW)
    found = stores.events.find("evt_1")
    assert (found.matched_at, found.warning) == (NOW, "it broke")
    assert not stores.executions.reject(EventId("evt_1"), "again", NOW)
    assert stores.events.find("evt_1").warning == "it broke"
    assert not stores.executions.reject(EventId("evt_none"), "again", NOW)


# --- order of the executions for one alias -----------------------------------------------------------------


def moved(number, *, step_state=ExecutionState.SUCCEEDED, **changes):
    """Return an execution that answers a move of `production`."""
    steps = (StepRecord("send", "webhook", state=step_state, outputs={"text": '"state":"succeeded"'}),)
    values = {"event_id": f"evt_{number}", "alias_reference": "model/churn:production", "steps": steps}
    return execution(f"exe_{number}", **(values | changes))


def overtaking(stores, number=3, step_id="send"):
    step = OrderedStep("promote", "model/churn:production", EventId(f"evt_{number}"), step_id)
    return stores.executions.find_overtaking([step])[0]


def test_the_newest_execution_that_completed_the_step_is_found(stores):
    """Older executions and executions that have not completed the step do not count."""
    stores.accept(*(f"evt_{number}" for number in range(2, 9)))
    admit(stores, moved(2), moved(3))
    assert overtaking(stores) is None

    admit(
        stores,
        moved(4),
        moved(5),
        moved(6, step_state=ExecutionState.FAILED),
        moved(7, step_state=ExecutionState.WAITING),
    )
    assert overtaking(stores) == "exe_5"
    assert overtaking(stores, 4) == "exe_5"
    assert overtaking(stores, 5) is None
    assert overtaking(stores, step_id="another") is None


@pytest.mark.parametrize(
    "changes", [{"automation": "another"}, {"alias_reference": "model/churn:staging"}, {"alias_reference": None}]
)
def test_only_the_same_automation_and_alias_are_in_one_order(stores, changes):
    """A replay has no alias reference, so it does not overtake."""
    stores.accept("evt_3", "evt_4")
    admit(stores, moved(3), moved(4, **changes))
    assert overtaking(stores) is None


def test_a_completed_step_is_found_behind_many_that_wait(stores):
    """However many newer executions have not completed the step."""
    numbers = range(100, 300)
    stores.accept("evt_100", *(f"evt_{number}" for number in numbers))
    other = StepRecord("other", "webhook", state=ExecutionState.SUCCEEDED)
    admit(stores, *(moved(number, steps=(other,)) for number in numbers if number != 101), moved(101))
    assert overtaking(stores, 100) == "exe_101"
    assert stores.executions.find_overtaking([]) == ()
