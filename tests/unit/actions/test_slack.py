"""`slack`: the request to Slack, and what its responses mean."""

from __future__ import annotations

import orjson
import pytest

from tests.unit.actions.action_calls import ScriptedEgress, perform
from upshot.actions.slack import Slack
from upshot.errors import Ambiguous, Refused, TemplateInvalid, Unreachable

SLACK = Slack()
WEBHOOK = "https://hooks.slack.com/services/T/B/x"
BOT = {"token": "xoxb-1", "channel": "C1"}
BLOCKS = [{"type": "section", "text": {"type": "mrkdwn", "text": "*x*"}}]


async def test_an_incoming_webhook_receives_only_the_message():
    """The text and the blocks are posted to the URL of the webhook, without a token."""
    egress = ScriptedEgress(body=b"ok")
    outcome = await perform(SLACK, {"webhook": WEBHOOK, "text": "hello", "blocks": BLOCKS}, egress=egress)

    (sent,) = egress.sent
    assert (sent.method, sent.url) == ("POST", WEBHOOK)
    assert sent.json == {"text": "hello", "blocks": BLOCKS}
    assert "Authorization" not in sent.headers
    assert outcome.outputs == {"status": 200}


async def test_a_bot_posts_with_the_delivery_id():
    """`chat.postMessage` receives the delivery id as metadata. Later steps can reply in the thread."""
    egress = ScriptedEgress(body=b'{"ok": true, "ts": "1.2", "channel": "C1"}')
    outcome = await perform(SLACK, {**BOT, "text": "hello", "thread-ts": "1.1"}, egress=egress)

    (sent,) = egress.sent
    assert sent.url == "https://slack.com/api/chat.postMessage"
    assert sent.headers["Authorization"] == "Bearer xoxb-1"
    assert sent.json == {
        "channel": "C1",
        "text": "hello",
        "thread_ts": "1.1",
        "metadata": {"event_type": "upshot_delivery", "event_payload": {"delivery_id": "dlv_1"}},
    }
    assert outcome.outputs == {"status": 200, "ts": "1.2", "channel": "C1"}


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "wait", "words"),
    [
        pytest.param(400, {}, b"invalid_payload", Refused, None, "check `text` and `blocks`", id="invalid_payload"),
        pytest.param(403, {}, b"action_prohibited", Refused, None, "a rule of the workspace", id="action_prohibited"),
        pytest.param(403, {}, b"invalid_token", Refused, None, "replace the URL", id="invalid_token"),
        pytest.param(404, {}, b"channel_not_found", Refused, None, "cannot see this channel", id="channel_not_found"),
        pytest.param(404, {}, b"no_service", Refused, None, "create a new one", id="no_service"),
        pytest.param(410, {}, b"channel_is_archived\n", Refused, None, "archived", id="channel_is_archived"),
        pytest.param(418, {}, b"something_new", Refused, None, "something_new", id="an unknown error"),
        pytest.param(500, {}, b"rollup_error", Unreachable, None, "rollup_error", id="rollup_error"),
        pytest.param(429, {"retry-after": "30"}, b"", Unreachable, 30, "429", id="too many"),
    ],
)
async def test_the_response_of_an_incoming_webhook_decides(*, status, headers, body, kind, wait, words):
    """The error code in the plain text of the response decides. The message contains a remedy."""
    with pytest.raises(kind) as raised:
        await perform(SLACK, {"webhook": WEBHOOK, "text": "x"}, egress=ScriptedEgress(status, headers, body))

    assert raised.value.retry_after_seconds == wait
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("status", "headers", "answer", "kind", "wait", "words"),
    [
        pytest.param(
            200, {}, {"ok": False, "error": "channel_not_found"}, Refused, None, "cannot see this channel", id="channel"
        ),
        pytest.param(200, {}, {"ok": False, "error": "not_in_channel"}, Refused, None, "/invite", id="not invited"),
        pytest.param(200, {}, {"ok": False, "error": "invalid_auth"}, Refused, None, "token is wrong", id="token"),
        pytest.param(
            200,
            {},
            {"ok": False, "error": "missing_scope", "needed": "chat:write"},
            Refused,
            None,
            "needed: chat:write",
            id="scope",
        ),
        pytest.param(200, {}, {"ok": False, "error": "brand_new"}, Refused, None, "brand_new", id="unknown error"),
        pytest.param(200, {}, {"ok": False}, Refused, None, "without a reason", id="no error code"),
        pytest.param(200, {}, {"ok": "true"}, Refused, None, "without a reason", id="true as a string"),
        pytest.param(
            429, {"retry-after": "9"}, {"ok": False, "error": "ratelimited"}, Unreachable, 9, "ratelimited", id="limit"
        ),
        pytest.param(
            200, {}, {"ok": False, "error": "internal_error"}, Unreachable, None, "internal_error", id="internal"
        ),
        pytest.param(
            503, {}, {"ok": False, "error": "service_unavailable"}, Unreachable, None, "service", id="service"
        ),
        pytest.param(200, {}, {"ok": False, "error": "request_timeout"}, Unreachable, None, "timeout", id="timeout"),
        pytest.param(200, {}, ["no", "object"], Refused, None, "UPSHOT_SLACK_API_URL", id="another API"),
        pytest.param(502, {}, None, Unreachable, None, "502", id="a proxy's error"),
    ],
)
async def test_the_response_of_chat_post_message_decides(*, status, headers, answer, kind, wait, words):
    """Success is `ok: true`, not status 200. Temporary errors lead to another attempt, others name the wrong key."""
    body = b"<html>" if answer is None else orjson.dumps(answer)

    with pytest.raises(kind) as raised:
        await perform(SLACK, {**BOT, "text": "x"}, egress=ScriptedEgress(status, headers, body))

    assert raised.value.retry_after_seconds == wait
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        pytest.param(200, b'{"ok": tr', Ambiguous, id="no body"),
        pytest.param(200, b'{"ok": false, "error": "invalid_auth"}', Refused, id="an error"),
        pytest.param(503, b"", Unreachable, id="another status"),
    ],
)
async def test_an_unread_response_of_chat_post_message_is_ambiguous(status, body, kind):
    """Slack reports errors in the body, so a body that cannot be read decides nothing."""
    egress = ScriptedEgress(status=status, body=body, stopped="the connection broke")

    with pytest.raises(kind):
        await perform(SLACK, {**BOT, "text": "hello"}, egress=egress)


async def test_an_unread_response_of_an_incoming_webhook_is_a_success():
    """Its status says everything."""
    egress = ScriptedEgress(stopped="the connection broke")
    outcome = await perform(SLACK, {"webhook": WEBHOOK, "text": "hello"}, egress=egress)

    assert outcome.outputs == {"status": 200}
    assert (outcome.response or {})["stopped"] == "the connection broke"


async def test_a_text_that_slack_would_cut_is_not_sent():
    """The limit also applies to a rendered text."""
    egress = ScriptedEgress()

    with pytest.raises(TemplateInvalid, match=r"with\.text: has 40001 characters"):
        await perform(SLACK, {"webhook": WEBHOOK, "text": "x" * 40_001}, egress=egress)

    assert not egress.sent


def test_mistakes_are_reported_when_the_automation_is_loaded():
    """A token in the file and a webhook that is not a URL are reported."""
    assert [path for path, _ in SLACK.check({"token": "xoxb-real", "channel": "C1", "text": "x"})] == ["token"]
    assert [path for path, _ in SLACK.check({"webhook": "hooks.slack.com/x", "text": "x"})] == ["webhook"]


def _section(text):
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([_section("x" * 3001)], "the text of block 1 (a section) has 3,001 characters; Slack accepts at most 3,000"),
        ([_section("x"), {"type": "header", "text": {"text": "x" * 151}}], "block 2 (a header) has 151 characters"),
        ([{"type": "section", "fields": [{"text": "x" * 2001}]}], "field 1 of block 1 has 2,001 characters"),
    ],
)
async def test_a_text_that_is_too_long_for_its_block_gets_a_remedy(blocks, says):
    """Slack would only say `invalid_blocks`. The message says which text is too long, and how to shorten it."""
    with pytest.raises(TemplateInvalid) as caught:
        await perform(SLACK, {"webhook": WEBHOOK, "blocks": blocks}, egress=ScriptedEgress())

    assert says in str(caught.value)
    assert "| slack | truncate(" in str(caught.value)


async def test_slacks_own_word_about_a_long_text_gets_the_same_remedy():
    """Slack counts more than the limits that are checked before sending."""
    body = {
        "ok": False,
        "error": "invalid_blocks",
        "response_metadata": {"messages": ["[ERROR] must be less than 76 characters [json-pointer:/blocks/0/x]"]},
    }
    with pytest.raises(Refused, match=r"/blocks/0/x can have at most 75 characters; shorten .*truncate\(50\)"):
        await perform(SLACK, {**BOT, "text": "x"}, egress=ScriptedEgress(body=orjson.dumps(body)))
