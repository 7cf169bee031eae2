"""Actions against the stand-ins, over a real socket: what arrives, and what becomes of answers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.flow.actions.raw_http import door, run
from tests.unit.actions.action_calls import RecordingRegistry, make_call
from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.actions.protocol import ActionContext
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.errors import Ambiguous, Refused, Unreachable
from upshot.receivers import (
    GITHUB_TOKEN,
    SIGNING_SECRET,
    SLACK_TOKEN,
    Receivers,
    ReceiversThread,
)

CATALOG = load_catalog(EgressRules())
DISPATCH = {"repository": "acme/deploy", "token": GITHUB_TOKEN, "event-type": "model-promoted"}


def _perform(uses, make_with, *, prepare=lambda _: None, **changes) -> Any:
    """Perform an action against fresh stand-ins; gives its outcome, or its error, and what arrived."""

    async def story():
        async with Receivers() as receivers, door() as egress:
            prepare(receivers)
            jobs = MemoryJobs(MemoryExecutions(MemoryEvents()))
            tools = ActionContext(egress, RecordingRegistry(), receivers.github_api_url, receivers.slack_api_url, jobs)
            call = make_call(make_with(receivers), now=datetime.now(UTC), **changes)
            (result,) = await asyncio.gather(CATALOG[uses].perform(call, tools), return_exceptions=True)
            return result, receivers.requests

    return run(story())


def test_a_signed_webhook_is_believed_by_a_stranger():
    """The receiver verifies it, and so does the library of Standard Webhooks, byte for byte."""
    outcome, (received,) = _perform("webhook", lambda r: {"url": f"{r.url}/deploy", "signing-secret": SIGNING_SECRET})

    Verifier(SIGNING_SECRET).verify(received.body, dict(received.headers))
    assert received.verified
    assert received.headers["webhook-id"] == "dlv_1"
    assert received.json["type"] == "upshot.alias-added"
    assert outcome.outputs == {"status": 200, "body": {"received": True, "reason": None}}
    assert outcome.request["body_bytes"] == len(received.body)


def test_a_signature_with_another_secret_is_refused():
    """A wrong secret shows as a 401 in the receipt."""
    other = "whsec_" + "QUJD" * 10
    error, (received,) = _perform("webhook", lambda r: {"url": f"{r.url}/deploy", "signing-secret": other})

    assert type(error) is Refused
    assert (error.response or {})["status"] == 401
    assert not received.verified


def test_github_takes_the_dispatch():
    """Headers, token and body are as GitHub wants them, with the delivery id in the payload."""
    outcome, (received,) = _perform("github-dispatch", lambda _: {**DISPATCH, "client-payload": {"model": "churn"}})

    assert received.verified, received.reason
    assert received.path == "/github/repos/acme/deploy/dispatches"
    assert received.json["client_payload"] == {"model": "churn", "delivery_id": "dlv_1"}
    assert outcome.outputs["status"] == 204


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"token": "ghp_wrong"}, 401, id="token"),
        pytest.param({"repository": "acme/missing"}, 404, id="repository"),
    ],
)
def test_github_refuses_what_it_would_refuse(change, status):
    """The stand-in answers as GitHub does, and the action reads it so."""
    error, _ = _perform("github-dispatch", lambda _: DISPATCH | change)

    assert type(error) is Refused
    assert (error.response or {})["status"] == status


def test_slack_takes_a_message_either_way():
    """By webhook, and as a bot that learns where its message stands."""
    by_webhook, (first,) = _perform("slack", lambda r: {"webhook": r.slack_webhook_url, "text": "hello"})
    as_bot, (second,) = _perform("slack", lambda _: {"token": SLACK_TOKEN, "channel": "C1", "text": "hello"})

    assert first.verified
    assert by_webhook.outputs == {"status": 200}
    assert second.verified
    assert as_bot.outputs == {"status": 200, "ts": "1767268800.000100", "channel": "C1"}


def test_slack_refuses_with_status_200():
    """`ok: false` is a refusal, whatever the status."""
    error, _ = _perform("slack", lambda _: {"token": "xoxb-wrong", "channel": "C1", "text": "hello"})

    assert type(error) is Refused
    assert "token is wrong" in str(error)
    assert (error.response or {})["status"] == 200


def test_a_receiver_that_fails_says_how_long_to_wait():
    """503 with Retry-After: tried again, no sooner than that."""
    error, (received,) = _perform(
        "webhook",
        lambda r: {"url": f"{r.url}/deploy"},
        prepare=lambda r: r.fail_times(1, 503, path="/deploy", headers={"Retry-After": "17"}),
    )

    assert type(error) is Unreachable
    assert error.retry_after_seconds == 17
    assert received.status == 503


@pytest.mark.parametrize(
    ("how", "kind"),
    [("hang", Ambiguous), ("reset", Ambiguous), ("trickle", Ambiguous), ("garbage", Refused)],
)
def test_a_rude_stand_in_is_as_rude_as_it_says(how, kind):
    """The request arrived, and no answer came back that could be read."""
    error, (received,) = _perform(
        "webhook",
        lambda r: {"url": f"{r.url}/deploy"},
        prepare=lambda r: r.be_rude(how, path="/deploy"),
        timeout_seconds=0.3,
    )

    assert type(error) is kind
    assert received.status is None


def test_an_endless_answer_ends_at_our_bound():
    """What came is kept to 16 KB; the message was taken."""
    outcome, _ = _perform(
        "webhook", lambda r: {"url": f"{r.url}/deploy"}, prepare=lambda r: r.be_rude("endless", path="/deploy")
    )

    assert outcome.outputs["status"] == 200
    assert outcome.response["truncated"]
    assert len(outcome.response["body"]) == 16 * 1024


def test_stand_ins_serve_code_without_a_loop():
    """On a thread of their own: fails as often as told, then answers; `be_good` ends it; everything is recorded."""
    with ReceiversThread() as receivers:
        receivers.fail_times(2, 500, path="/hook")
        statuses = [httpx.post(f"{receivers.url}/hook?n={n}", content=b"x").status_code for n in range(3)]
        receivers.fail_times(2, 500, path="/hook")
        receivers.be_good(path="/hook")
        statuses.append(httpx.post(f"{receivers.url}/hook", content=b"x").status_code)

        assert statuses == [500, 500, 200, 200]
        assert [request.path for request in receivers.received("/hook")] == [
            "/hook?n=0",
            "/hook?n=1",
            "/hook?n=2",
            "/hook",
        ]
    with pytest.raises(httpx.ConnectError):
        httpx.post(f"{receivers.url}/hook")
