"""Executions over HTTP: listed, shown with receipts, retried, cancelled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.web.conftest import API, ok_json, problem
from upshot.domain.execution import AttemptState, Execution, ExecutionState, Receipt, StepRecord
from upshot.execution.transitions import retry_by_user
from upshot.ids import DeliveryId, RevisionId, WorkerId, derive_execution_id
from upshot.ports.executions import Admission, ExecutionUpdate

EXECUTIONS = f"{API}/executions"


@pytest.fixture
def failed(web, stores, clock):
    """Return a failed execution with two receipts."""
    event_id = ok_json(web.post(f"{API}/events", json={"name": "go"}))["id"]
    running = Execution(
        id=derive_execution_id(event_id, "promote"),
        automation="promote",
        revision_id=RevisionId("r1"),
        event_id=event_id,
        state=ExecutionState.RUNNING,
        created_at=clock.now(),
        steps=(StepRecord("say", "webhook"), StepRecord("post", "slack")),
        lease_owner_id=WorkerId("w1"),
        lease_until=clock.now(),
        fence=1,
    )
    stores.executions.admit([Admission(event_id, (running,))], clock.now())
    failed = replace(
        running,
        state=ExecutionState.FAILED,
        reason="step say: refused",
        finished_at=clock.now(),
        lease_owner_id=None,
        lease_until=None,
        steps=(
            StepRecord(
                "say", "webhook", state=ExecutionState.FAILED, reason="404", attempt_count=2, started_at=clock.now()
            ),
            StepRecord("post", "slack", state=ExecutionState.SKIPPED),
        ),
    )
    receipts = tuple(
        Receipt(
            execution_id=running.id,
            step_id="say",
            attempt=attempt,
            state=state,
            delivery_id=DeliveryId("dlv_1"),
            started_at=clock.now(),
            took_seconds=0.25,
            worker_id=WorkerId("w1"),
            request={"method": "POST", "url": "https://example.com", "body": "{}"},
            response={"status": 404},
            error="not found",
            wait_seconds=wait_seconds,
            timings={"answer": 0.2},
        )
        for attempt, state, wait_seconds in ((1, AttemptState.UNREACHABLE, 1.5), (2, AttemptState.REFUSED, None))
    )
    stores.executions.record([ExecutionUpdate(failed, receipts)])
    return failed


def test_an_execution_shows_its_steps_and_the_receipt_of_every_attempt(web, failed):
    """One execution has the attempts of each step, in order, with request and response."""
    shown = ok_json(web.get(f"{EXECUTIONS}/{failed.id}"))

    expected = {
        "id": failed.id,
        "automation": "promote",
        "revision": "r1",
        "event_id": failed.event_id,
        "state": "failed",
        "reason": "step say: refused",
        "due_at": None,
    }
    assert {key: shown[key] for key in expected} == expected
    say, post = shown["steps"]
    assert (say["id"], say["uses"], say["phase"], say["state"]) == ("say", "webhook", "main", "failed")
    assert say["attempt_count"] == 2
    assert [attempt["attempt"] for attempt in say["attempts"]] == [1, 2]
    assert say["attempts"][0] == {
        "attempt": 1,
        "state": "unreachable",
        "request": {"method": "POST", "url": "https://example.com", "body": "{}"},
        "response": {"status": 404},
        "error": "not found",
        "delivery_id": "dlv_1",
        "started_at": "2026-01-01T12:00:00.000000Z",
        "took_seconds": 0.25,
        "wait_seconds": 1.5,
        "worker_id": "w1",
        "timings": {"answer": 0.2},
    }
    assert post["attempts"] == []


def test_executions_are_listed_and_can_be_filtered(web, failed):
    """Filters are event, automation and state. Lists count attempts and leave the receipts out."""

    def found(**query: str | list[str]) -> list[str]:
        return [execution["id"] for execution in ok_json(web.get(EXECUTIONS, params=query))["items"]]

    (listed,) = ok_json(web.get(EXECUTIONS))["items"]
    assert listed["steps"][0]["attempt_count"] == 2
    assert "attempts" not in listed["steps"][0]
    assert found(event_id=failed.event_id) == found(automation="promote") == found(state="failed") == [failed.id]
    assert found(state=["failed", "waiting"]) == found(id=failed.id[-8:]) == found(since="2026-01-01T00:00:00Z")
    assert found(event_id="evt_other") == found(automation="other") == found(state="waiting") == []
    assert found(state=["running", "waiting"]) == found(id="none") == found(since="2036-01-01T00:00:00Z") == []


def test_a_failed_execution_can_be_retried(web, deps, failed):
    """The execution waits and is due at once, a worker is notified, and attempts count on."""
    retried = ok_json(web.post(f"{EXECUTIONS}/{failed.id}/retry"))

    assert (retried["state"], retried["steps"][0]["attempt_count"]) == ("waiting", 2)
    assert retried["due_at"]
    assert deps.notifier.notified == [failed.id]


def test_only_a_failed_execution_can_be_retried(web, failed):
    """The second retry finds a waiting execution, which is a conflict."""
    ok_json(web.post(f"{EXECUTIONS}/{failed.id}/retry"))

    data = problem(web.post(f"{EXECUTIONS}/{failed.id}/retry"), 409, "conflict")
    assert "waiting" in data["detail"]


def test_a_waiting_execution_can_be_cancelled(web, deps, failed):
    """The execution ends, its reason names the actor, and no worker is notified."""
    ok_json(web.post(f"{EXECUTIONS}/{failed.id}/retry"))
    deps.notifier.notified.clear()

    cancelled = ok_json(web.post(f"{EXECUTIONS}/{failed.id}/cancel", headers={"X-Upshot-Actor": "ada"}))

    assert cancelled["state"] == "cancelled"
    assert "ada" in cancelled["reason"]
    assert deps.notifier.notified == []


def test_a_final_execution_cannot_be_cancelled(web, failed):
    """A failed execution has nothing to stop."""
    problem(web.post(f"{EXECUTIONS}/{failed.id}/cancel"), 409, "conflict")


@pytest.mark.parametrize("request_line", ["GET", "POST retry", "POST cancel"])
def test_an_unknown_execution_is_not_found(web, request_line):
    """Every route of an execution returns 404."""
    method, _, action = request_line.partition(" ")

    problem(web.request(method, f"{EXECUTIONS}/exe_0/{action}".rstrip("/")), 404, "not-found")


def test_a_wrong_state_gets_a_suggestion(web):
    """`success` is not a state, and `succeeded` is."""
    data = problem(web.get(EXECUTIONS, params={"state": "success"}), 422, "invalid-input")

    assert "did you mean 'succeeded'?" in data["detail"]


def test_retrying_an_overtaken_execution_needs_force(web, stores, failed, clock):
    """Repeating a step that a newer execution completed would restore an older state. The answer names that one."""
    reference = "model/churn:production"
    older = stores.executions.amend(failed.id, lambda execution: replace(execution, alias_reference=reference))
    event_id = ok_json(web.post(f"{API}/events", json={"name": "go"}))["id"]
    newer = replace(
        older,
        id=derive_execution_id(event_id, "promote"),
        event_id=event_id,
        state=ExecutionState.SUCCEEDED,
        steps=(StepRecord("say", "webhook", state=ExecutionState.SUCCEEDED),),
    )
    stores.executions.admit([Admission(event_id, (newer,))], clock.now())
    path = f"{EXECUTIONS}/{failed.id}/retry"

    detail = problem(web.post(path), 409, "conflict")["detail"]
    assert f"overtaken by {newer.id}" in detail
    problem(web.post(path, json={"force": False}), 409, "conflict")
    problem(web.post(path, json={"force": "yes"}), 422, "invalid-input")

    assert ok_json(web.post(path, json={"force": True}))["state"] == "waiting"


def test_a_retry_names_the_revision_that_it_uses(web, stores, failed, automations):
    """`current` is the loaded one, and an unknown choice is refused."""
    path = f"{EXECUTIONS}/{failed.id}/retry"
    detail = problem(web.post(path, json={"revision": "newest"}), 422, "invalid-input")["detail"]
    assert "original" in detail
    assert "other steps" not in detail

    stores.executions.amend(failed.id, lambda execution: replace(execution, steps=execution.steps[:1]))
    retried = ok_json(web.post(path, json={"revision": "current"}))

    (loaded,) = (automation for automation in automations.current.automations if automation.name == "promote")
    assert retried["revision"] == loaded.revision_id


def test_executions_are_filtered_by_time(web, failed, clock):
    """Times have a time zone."""
    now = clock.now().isoformat()
    assert len(ok_json(web.get(EXECUTIONS, params={"since": now}))["items"]) == 1
    assert ok_json(web.get(EXECUTIONS, params={"until": now}))["items"] == []
    problem(web.get(EXECUTIONS, params={"since": "yesterday"}), 422, "invalid-input")


def test_a_waiting_execution_of_a_disabled_automation_says_that_it_is_held(web, stores, failed, clock):
    """Also before its next attempt is due."""
    waiting = retry_by_user(replace(failed, automation="switched-off"), clock.now())
    stores.executions.amend(failed.id, lambda _: waiting)

    (listed,) = ok_json(web.get(EXECUTIONS))["items"]
    shown = ok_json(web.get(f"{EXECUTIONS}/{failed.id}"))
    assert listed["reason"] == shown["reason"]
    assert shown["reason"].startswith("automation switched-off is disabled")


def test_events_are_replayed(web, failed):
    """The answer has the new execution, which is marked. A dry run makes none."""
    artifact = {"name": "churn", "artifact_type": "model", "digest": "sha256:0"}
    ok_json(web.post(f"{API}/projects/demo/artifacts", json=artifact))
    versions = f"{API}/registries/model/collections/churn/versions"
    ok_json(web.post(versions, json={"artifact": "demo/churn:v0", "aliases": ["production"]}))
    (event,) = ok_json(web.get(f"{API}/events", params={"kind": "alias-added", "limit": 1}))["items"]
    body = {"event_ids": [event["id"]], "dry_run": True}

    (unmatched,) = ok_json(web.post(f"{API}/replays", json=body))["items"]

    assert "no worker has matched it yet" in unmatched["reason"]
    problem(web.post(f"{API}/replays", json={"event_ids": ["evt_0"]}), 404, "not-found")
    (go,) = ok_json(web.post(f"{API}/replays", json={"event_ids": [failed.event_id], "automation": "promote"}))["items"]
    assert go["answers"][0]["execution_id"] is None
    assert "this is custom" in go["answers"][0]["reason"]
