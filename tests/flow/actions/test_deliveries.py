"""Actions against fake receivers over real sockets: what they receive, and what their responses mean."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.flow.actions.raw_http import open_egress
from tests.unit.actions.action_calls import RecordingRegistry, make_call
from upshot.actions.catalog import load_catalog
from upshot.actions.protocol import ActionContext
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.errors import Ambiguous, Refused, TryLater
from upshot.receivers import (
    GITHUB_TOKEN,
    SIGNING_SECRET,
    SLACK_TOKEN,
    Receivers,
    ReceiversThread,
)

CATALOG = load_catalog()
DISPATCH = {"repository": "acme/deploy", "token": GITHUB_TOKEN, "event-type": "model-promoted"}


async def _perform(uses, make_with, *, prepare=lambda _: None, **changes) -> Any:
    """Perform an action against fake receivers, and return its outcome or error and what they received."""
    async with Receivers() as receivers, open_egress() as egress:
        prepare(receivers)
        jobs = MemoryJobs(MemoryExecutions(MemoryEvents()))
        context = ActionContext(egress, RecordingRegistry(), receivers.github_api_url, receivers.slack_api_url, jobs)
        call = make_call(make_with(receivers), now=datetime.now(UTC), **changes)
        (result,) = await asyncio.gather(CATALOG[uses].perform(call, context), return_exceptions=True)
        return result, receivers.requests


async def test_a_signed_webhook_is_verified():
    """The receiver verifies the signature, and so does the library of Standard Webhooks."""
    outcome, (received,) = await _perform(
        "webhook", lambda r: {"url": f"{r.url}/deploy", "signing-secret": SIGNING_SECRET}
    )

    Verifier(SIGNING_SECRET).verify(received.body, dict(received.headers))
    assert received.verified
    assert received.headers["webhook-id"] == "dlv_1"
    assert received.json["type"] == "upshot.alias-added"
    assert outcome.outputs == {"status": 200, "body": {"received": True, "reason": None}}
    assert outcome.request["body_bytes"] == len(received.body)


async def test_a_signature_with_another_secret_is_refused():
    """The receipt of a request that is signed with a wrong secret contains the status 401."""
    other = "whsec_" + "QUJD" * 10
    error, (received,) = await _perform("webhook", lambda r: {"url": f"{r.url}/deploy", "signing-secret": other})

    assert type(error) is Refused
    assert (error.response or {})["status"] == 401
    assert not received.verified


async def test_github_accepts_the_dispatch():
    """Headers, token and body are as GitHub requires them, and the payload contains the delivery id."""
    outcome, (received,) = await _perform(
        "github-dispatch", lambda _: {**DISPATCH, "client-payload": {"model": "churn"}}
    )

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
async def test_github_refuses_a_wrong_token_or_repository(change, status):
    """The fake receiver answers as GitHub does, and the action is refused."""
    error, _ = await _perform("github-dispatch", lambda _: DISPATCH | change)

    assert type(error) is Refused
    assert (error.response or {})["status"] == status


async def test_slack_accepts_messages_by_webhook_and_by_bot():
    """A message can be posted through a webhook or by a bot. A bot receives the location of its message."""
    by_webhook, (first,) = await _perform("slack", lambda r: {"webhook": r.slack_webhook_url, "text": "hello"})
    as_bot, (second,) = await _perform("slack", lambda _: {"token": SLACK_TOKEN, "channel": "C1", "text": "hello"})

    assert first.verified
    assert by_webhook.outputs == {"status": 200}
    assert second.verified
    assert as_bot.outputs == {"status": 200, "ts": "1767268800.000100", "channel": "C1"}


async def test_slack_refuses_with_status_200():
    """A response with `ok: false` is a refusal, even with status 200."""
    error, _ = await _perform("slack", lambda _: {"token": "xoxb-wrong", "channel": "C1", "text": "hello"})

    assert type(error) is Refused
    assert "the token is wrong" in str(error)
    assert (error.response or {})["status"] == 200


async def test_a_failing_receiver_can_ask_for_a_wait():
    """A 503 response leads to another attempt, no sooner than its Retry-After says."""
    error, (received,) = await _perform(
        "webhook",
        lambda r: {"url": f"{r.url}/deploy"},
        prepare=lambda r: r.fail_times(1, 503, path="/deploy", headers={"Retry-After": "17"}),
    )

    assert type(error) is TryLater
    assert error.retry_after_seconds == 17
    assert received.status == 503


@pytest.mark.parametrize(
    ("how", "kind"),
    [("hang", Ambiguous), ("reset", Ambiguous), ("garbage", Refused)],
)
async def test_a_misbehaving_receiver_sends_no_usable_response(how, kind):
    """The receiver gets the request, and its response is missing or invalid."""
    error, (received,) = await _perform(
        "webhook",
        lambda r: {"url": f"{r.url}/deploy"},
        prepare=lambda r: r.misbehave(how, path="/deploy"),
        timeout_seconds=0.3,
    )

    assert type(error) is kind
    assert received.status is None


async def test_a_response_that_does_not_end_in_time_is_truncated():
    """A 2xx status line is a success. The receipt says where the response stopped."""
    outcome, (received,) = await _perform(
        "webhook",
        lambda r: {"url": f"{r.url}/deploy"},
        prepare=lambda r: r.misbehave("trickle", path="/deploy"),
        timeout_seconds=0.3,
    )

    assert outcome.outputs["status"] == 200
    assert "within 0.3 s" in outcome.response["stopped"]
    assert received.status is None


async def test_an_endless_response_is_truncated():
    """An endless response is a success. Its first 16 KB are stored."""
    outcome, _ = await _perform(
        "webhook", lambda r: {"url": f"{r.url}/deploy"}, prepare=lambda r: r.misbehave("endless", path="/deploy")
    )

    assert outcome.outputs["status"] == 200
    assert outcome.response["truncated"]
    assert len(outcome.response["body"]) == 16 * 1024


def test_fake_receivers_can_run_in_a_thread():
    """In a thread, fake receivers fail as often as configured, `reset` ends that, and all requests are recorded."""
    with ReceiversThread() as receivers:
        receivers.fail_times(2, 500, path="/hook")
        statuses = [httpx.post(f"{receivers.url}/hook?n={n}", content=b"x").status_code for n in range(3)]
        receivers.fail_times(2, 500, path="/hook")
        receivers.reset(path="/hook")
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
