"""Executions over HTTP: listed, shown with receipts, retried, cancelled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.web.conftest import API, made, problem
from upshot.domain.execution import AttemptState, Execution, ExecutionState, Receipt, StepRecord
from upshot.ids import execution_id
from upshot.ports.executions import Admission, ExecutionUpdate

EXECUTIONS = f"{API}/executions"


@pytest.fixture
def failed(web, stores, clock):
    """A failed execution with two receipts, and the event that it answers."""
    event = made(web.post(f"{API}/events", json={"name": "go"}))["id"]
    running = Execution(
        id=execution_id(event, "promote"),
        automation="promote",
        revision="r1",
        event_id=event,
        state=ExecutionState.RUNNING,
        created_at=clock.now(),
        steps=(StepRecord("say", "webhook"), StepRecord("tell", "slack")),
        lease_owner="w1",
        lease_until=clock.now(),
        fence=1,
    )
    stores.executions.admit([Admission(event, (running,))], clock.now())
    stopped = replace(
        running,
        state=ExecutionState.FAILED,
        reason="step say: refused",
        finished_at=clock.now(),
        lease_owner=None,
        lease_until=None,
        steps=(
            StepRecord("say", "webhook", state=ExecutionState.FAILED, reason="404", attempts=2, started_at=clock.now()),
            StepRecord("tell", "slack", state=ExecutionState.SKIPPED),
        ),
    )
    receipts = tuple(
        Receipt(
            execution_id=running.id,
            step_id="say",
            attempt=number,
            state=state,
            delivery_id="dlv_1",
            started_at=clock.now(),
            took_seconds=0.25,
            worker_id="w1",
            request={"method": "POST", "url": "https://example.com", "body": "{}"},
            response={"status": 404},
            error="not found",
            wait_seconds=wait,
            timings={"answer": 0.2},
        )
        for number, state, wait in ((1, AttemptState.UNREACHABLE, 1.5), (2, AttemptState.REFUSED, None))
    )
    stores.executions.record([ExecutionUpdate(stopped, receipts)])
    return stopped


def test_an_execution_shows_its_steps_and_the_receipt_of_every_attempt(web, failed):
    """The single view has the attempts of each step, in order, as they were sent and answered."""
    form = made(web.get(f"{EXECUTIONS}/{failed.id}"))

    assert {key: form[key] for key in ("id", "automation", "revision", "event", "state", "reason", "due_at")} == {
        "id": failed.id,
        "automation": "promote",
        "revision": "r1",
        "event": failed.event,
        "state": "failed",
        "reason": "step say: refused",
        "due_at": None,
    }
    say, tell = form["steps"]
    assert (say["id"], say["uses"], say["phase"], say["state"], say["attempt_count"]) == (
        "say",
        "webhook",
        "main",
        "failed",
        2,
    )
    assert [attempt["number"] for attempt in say["attempts"]] == [1, 2]
    assert say["attempts"][0] == {
        "number": 1,
        "state": "unreachable",
        "request": {"method": "POST", "url": "https://example.com", "body": "{}"},
        "response": {"status": 404},
        "error": "not found",
        "delivery_id": "dlv_1",
        "started_at": "2026-01-01T12:00:00.000000Z",
        "took_seconds": 0.25,
        "wait_seconds": 1.5,
        "worker": "w1",
        "timings": {"answer": 0.2},
    }
    assert tell["attempts"] == []


def test_executions_are_listed_and_can_be_chosen(web, failed):
    """By event, automation and state; lists count attempts and leave the receipts out."""

    def found(**query: str) -> list[str]:
        return [item["id"] for item in made(web.get(EXECUTIONS, params=query))["items"]]

    (item,) = made(web.get(EXECUTIONS))["items"]
    assert item["steps"][0]["attempt_count"] == 2
    assert "attempts" not in item["steps"][0]
    assert found(event=failed.event) == found(automation="promote") == found(state="failed") == [failed.id]
    assert found(event="evt_other") == found(automation="other") == found(state="waiting") == []


def test_a_failed_execution_can_be_retried(web, house, failed):
    """It waits, due at once, and a worker is called; attempts go on counting."""
    form = made(web.post(f"{EXECUTIONS}/{failed.id}/retry"))

    assert (form["state"], form["steps"][0]["attempt_count"]) == ("waiting", 2)
    assert form["due_at"]
    assert house.notifier.notified == [failed.id]


def test_a_retry_of_what_did_not_fail_is_a_conflict(web, failed):
    """The second retry finds an execution that waits."""
    made(web.post(f"{EXECUTIONS}/{failed.id}/retry"))

    form = problem(web.post(f"{EXECUTIONS}/{failed.id}/retry"), 409, "conflict")
    assert "waiting" in form["detail"]


def test_a_waiting_execution_can_be_cancelled(web, house, failed):
    """It ends, says by whom, and nobody is called."""
    made(web.post(f"{EXECUTIONS}/{failed.id}/retry"))
    house.notifier.notified.clear()

    form = made(web.post(f"{EXECUTIONS}/{failed.id}/cancel", headers={"X-Upshot-Actor": "ada"}))

    assert form["state"] == "cancelled"
    assert "ada" in form["reason"]
    assert house.notifier.notified == []


def test_a_final_execution_cannot_be_cancelled(web, failed):
    """A failed execution has nothing to stop."""
    problem(web.post(f"{EXECUTIONS}/{failed.id}/cancel"), 409, "conflict")


@pytest.mark.parametrize("verb", ["GET", "POST retry", "POST cancel"])
def test_an_execution_that_is_not_there_is_not_found(web, verb):
    """For every verb."""
    method, _, action = verb.partition(" ")

    problem(web.request(method, f"{EXECUTIONS}/exe_0/{action}".rstrip("/")), 404, "not-found")


def test_a_wrong_state_gets_the_right_words(web):
    """`success` is not a state; `succeeded` is."""
    form = problem(web.get(EXECUTIONS, params={"state": "success"}), 422, "invalid-input")

    assert "did you mean 'succeeded'?" in form["detail"]
