"""`webhook`: the request that is sent, and what the response means."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.unit.actions.action_calls import CUSTOM_EVENT, ScriptedEgress, perform
from upshot.actions.webhook import Webhook
from upshot.errors import Refused, TemplateInvalid, Unreachable

HOOK = Webhook()
URL = "https://hooks.example.com/deploy"
OLD = "whsec_" + base64.b64encode(b"the old secret of 32 bytes......").decode()
NEW = "whsec_" + base64.b64encode(b"the new secret of 32 bytes......").decode()


async def _send(with_, **more):
    egress = ScriptedEgress()
    await perform(HOOK, {"url": URL, **with_}, egress=egress, **more)
    (sent,) = egress.sent
    return sent


async def test_json_is_sent_as_given():
    """`json` is the body, and its values keep their types. A header contains the delivery id."""
    sent = await _send({"json": {"model": 'a"b', "n": 1, "x": None}})

    assert (sent.method, sent.url) == ("POST", URL)
    assert sent.json == {"model": 'a"b', "n": 1, "x": None}
    assert sent.headers == {"webhook-id": "dlv_1", "content-type": "application/json"}
    assert not sent.follow_redirects


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
async def test_an_empty_json_value_is_a_body(value):
    """`json: null` sends null, not the event."""
    sent = await _send({"json": value})

    assert sent.json == value


async def test_without_a_body_the_event_is_sent_as_a_cloud_event():
    """Without `json` and `body-file`, the body is the event in the structured mode of CloudEvents 1.0."""
    sent = await _send({})

    assert sent.headers["content-type"] == "application/cloudevents+json"
    assert sent.json == {
        "specversion": "1.0",
        "id": "evt_1",
        "source": "https://upshot.example",
        "type": "upshot.alias-added",
        "subject": "model/churn:v3",
        "time": "2026-01-01T12:00:00.000000Z",
        "datacontenttype": "application/json",
        "actor": "ada",
        "automation": "promote",
        "mutationid": "mut_1",
        "data": {
            "registry": {"name": "model"},
            "collection": {"name": "churn"},
            "version": {"name": "v3", "reference": "model/churn:v3"},
            "alias": "production",
        },
    }


async def test_attribute_names_follow_the_rules_of_cloud_events():
    """Attribute names have at most twenty lower-case letters and digits."""
    sent = await _send({}, event=CUSTOM_EVENT)

    assert all(name.isalnum() and name.islower() and len(name) <= 20 for name in sent.json)


@pytest.mark.parametrize("method", ["get", "HEAD", "DELETE"])
async def test_methods_without_a_body_send_no_event(method):
    """GET, HEAD and DELETE send no event if the step gives no body."""
    sent = await _send({"method": method})

    assert (sent.method, sent.body) == (method.upper(), b"")
    assert "content-type" not in sent.headers


async def test_a_body_file_is_sent_as_it_was_rendered():
    """The rendered file is the body, byte for byte. `headers` can set its content type."""
    sent = await _send({"body-file": "x.xml.j2", "headers": {"Content-Type": "text/xml"}}, body=b"<a>\xc3\xbc</a>")

    assert sent.body == b"<a>\xc3\xbc</a>"
    assert sent.headers == {"webhook-id": "dlv_1", "Content-Type": "text/xml"}


@pytest.mark.parametrize("receiver_secret", [OLD, NEW])
async def test_signed_messages_verify_with_each_of_the_secrets(receiver_secret):
    """The library of Standard Webhooks verifies a signed request, also while a secret is rotated."""
    sent = await _send({"json": {"a": 1}, "signing-secret": [NEW, OLD]}, now=datetime.now(UTC))

    Verifier(receiver_secret).verify(sent.body, dict(sent.headers))
    assert sent.headers["webhook-id"] == "dlv_1"


async def test_every_attempt_has_its_own_time_and_the_same_id():
    """`webhook-timestamp` is the time of the attempt. `webhook-id` is the same for all attempts."""
    first = await _send({"signing-secret": OLD}, now=datetime(2026, 1, 1, 12, 0, tzinfo=UTC), attempt=1)
    second = await _send({"signing-secret": OLD}, now=datetime(2026, 1, 1, 12, 5, tzinfo=UTC), attempt=2)

    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 300


@pytest.mark.parametrize(
    ("body", "output"),
    [
        pytest.param(b'{"id": 7}', {"id": 7}, id="JSON"),
        pytest.param(b"ok", "ok", id="text"),
        pytest.param(b"", "", id="nothing"),
        pytest.param(b"\xff", "\ufffd", id="not text"),
    ],
)
async def test_later_steps_can_read_the_response(body, output):
    """`steps.ID.outputs.body` is data if the response is JSON, and text otherwise."""
    outcome = await perform(HOOK, {"url": URL}, egress=ScriptedEgress(201, body=body))

    assert outcome.outputs == {"status": 201, "body": output}
    assert outcome.response is not None
    assert outcome.response["status"] == 201
    assert outcome.timings


async def test_the_receipt_names_numbers_that_are_kept_as_text():
    """A later step that expects a number finds out why it gets a text."""
    body = b'{"run": {"id": 12345678901234567890123456}}'
    outcome = await perform(HOOK, {"url": URL}, egress=ScriptedEgress(body=body))

    assert outcome.outputs["body"] == {"run": {"id": "12345678901234567890123456"}}
    assert (outcome.response or {})["kept_as_text"] == [".run.id"]


@pytest.mark.parametrize(
    ("status", "kind"), [(301, Refused), (404, Refused), (410, Refused), (429, Unreachable), (503, Unreachable)]
)
async def test_an_unsuccessful_response_raises_the_error_of_its_status(status, kind):
    """The status decides the class of the error. The message contains the destination, never the path."""
    with pytest.raises(kind, match=rf"^https://hooks\.example\.com:443 answered {status}") as raised:
        await perform(HOOK, {"url": URL + "/tok"}, egress=ScriptedEgress(status, {"retry-after": "7"}))

    assert raised.value.retry_after_seconds == (7 if kind is Unreachable else None)


@pytest.mark.parametrize(
    ("with_", "message"),
    [
        pytest.param({"signing-secret": "hunter2"}, "with.signing-secret: not a Standard Webhooks secret", id="secret"),
        pytest.param({"headers": {"X-A": "a\r\nb"}}, "with.headers.X-A: contains a line break", id="header"),
        pytest.param({"json": 2**70}, "with.json: cannot be written as JSON", id="too large a number"),
        pytest.param({"json": "\ud800"}, "with.json: cannot be written as JSON", id="half a character"),
        pytest.param({"url": ""}, "with.url: is empty", id="url"),
    ],
)
async def test_a_rendered_value_that_cannot_be_sent_fails_the_step(with_, message):
    """If a rendered value is invalid, nothing is sent. The error contains the key and never a secret."""
    egress = ScriptedEgress()

    with pytest.raises(TemplateInvalid) as raised:
        await perform(HOOK, {"url": URL, **with_}, egress=egress)

    assert str(raised.value).startswith(message)
    assert "hunter2" not in str(raised.value)
    assert not egress.sent


@pytest.mark.parametrize(
    ("with_", "path", "message"),
    [
        pytest.param({"url": "hooks.example.com"}, "url", "https://", id="no scheme"),
        pytest.param({"url": URL, "signing-secret": OLD}, "signing-secret", "secrets.SIGNING_SECRET", id="secret"),
        pytest.param(
            {"url": URL, "signing-secret": ["{{ secrets.A }}", OLD]}, "signing-secret", "secrets.", id="one of two"
        ),
    ],
)
def test_mistakes_are_reported_when_the_automation_is_loaded(with_, path, message):
    """A URL that can never be reached, and a secret in the file, are reported before any event."""
    ((reported_path, reported),) = HOOK.check(with_)

    assert reported_path == path
    assert message in reported
    assert OLD not in reported


def test_a_file_is_valid_whatever_machines_the_worker_may_reach():
    """The egress rules of a worker are checked when it acts, so that all workers load the same automations."""
    assert not list(HOOK.check({"url": "http://10.0.0.5/x"}))


def test_templates_are_not_checked_when_the_automation_is_loaded():
    """A value that is still a template is not reported."""
    assert not list(HOOK.check({"url": "{{ secrets.URL }}", "signing-secret": "{{ secrets.KEY }}"}))
