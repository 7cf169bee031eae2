"""`webhook`: what is sent, and what the answer becomes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.unit.actions.action_calls import CUSTOM_EVENT, ScriptedEgress, perform
from upshot.actions.egress_rules import EgressRules
from upshot.actions.webhook import Webhook
from upshot.errors import Refused, TemplateInvalid, Unreachable

HOOK = Webhook(EgressRules().check_url)
URL = "https://hooks.example.com/deploy"
OLD = "whsec_" + base64.b64encode(b"the old secret of 32 bytes......").decode()
NEW = "whsec_" + base64.b64encode(b"the new secret of 32 bytes......").decode()


def _send(with_, **more):
    egress = ScriptedEgress()
    perform(HOOK, {"url": URL, **with_}, egress=egress, **more)
    (sent,) = egress.sent
    return sent


def test_json_is_sent_as_given():
    """`json` is the body, with its types kept, and the delivery id goes along."""
    sent = _send({"json": {"model": 'a"b', "n": 1, "x": None}})

    assert (sent.method, sent.url) == ("POST", URL)
    assert sent.json == {"model": 'a"b', "n": 1, "x": None}
    assert sent.headers == {"webhook-id": "dlv_1", "content-type": "application/json"}
    assert not sent.follow_redirects


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_an_empty_body_is_a_body_when_it_was_given(value):
    """`json: null` sends null, not the event."""
    assert _send({"json": value}).json == value


def test_without_a_body_the_event_is_sent_as_a_cloud_event():
    """The structured mode of CloudEvents 1.0, with the event's snapshot as data."""
    sent = _send({})

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


def test_attribute_names_of_the_cloud_event_keep_its_rules():
    """Lower-case letters and digits, twenty at most."""
    names = _send({}, event=CUSTOM_EVENT).json.keys()

    assert all(name.isalnum() and name.islower() and len(name) <= 20 for name in names)


@pytest.mark.parametrize("method", ["get", "HEAD", "DELETE"])
def test_methods_that_say_nothing_say_nothing(method):
    """A GET carries no event, unless a body was asked for."""
    sent = _send({"method": method})

    assert (sent.method, sent.body) == (method.upper(), b"")
    assert "content-type" not in sent.headers


def test_a_body_file_is_sent_as_it_was_rendered():
    """The rendered file goes out byte for byte; its content type can be said."""
    sent = _send({"body-file": "x.xml.j2", "headers": {"Content-Type": "text/xml"}}, body=b"<a>\xc3\xbc</a>")

    assert sent.body == b"<a>\xc3\xbc</a>"
    assert sent.headers == {"webhook-id": "dlv_1", "Content-Type": "text/xml"}


@pytest.mark.parametrize("receiver_has", [OLD, NEW])
def test_signed_messages_verify_with_each_of_the_secrets(receiver_has):
    """The library of Standard Webhooks believes what we sign, while a secret is rotated, too."""
    sent = _send({"json": {"a": 1}, "signing-secret": [NEW, OLD]}, now=datetime.now(UTC))

    Verifier(receiver_has).verify(sent.body, dict(sent.headers))
    assert sent.headers["webhook-id"] == "dlv_1"


def test_every_attempt_has_its_own_time_and_the_same_id():
    """`webhook-timestamp` is this attempt's; `webhook-id` is the delivery's."""
    moments = [datetime(2026, 1, 1, 12, minute, tzinfo=UTC) for minute in (0, 5)]
    first, second = (_send({"signing-secret": OLD}, now=now, attempt=n + 1) for n, now in enumerate(moments))

    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 300


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        pytest.param(b'{"id": 7}', {"id": 7}, id="JSON"),
        pytest.param(b"ok", "ok", id="text"),
        pytest.param(b"", "", id="nothing"),
        pytest.param(b"\xff", "\ufffd", id="no text"),
    ],
)
def test_what_came_back_is_for_later_steps(body, kept):
    """`steps.ID.outputs.body` is data where it is JSON, text otherwise."""
    outcome = perform(HOOK, {"url": URL}, egress=ScriptedEgress(201, body=body))

    assert outcome.outputs == {"status": 201, "body": kept}
    assert outcome.response is not None
    assert outcome.response["status"] == 201
    assert outcome.timings


@pytest.mark.parametrize(
    ("status", "kind"), [(301, Refused), (404, Refused), (410, Refused), (429, Unreachable), (503, Unreachable)]
)
def test_an_answer_without_success_is_an_error_of_its_class(status, kind):
    """The table is RECEIVERS'; the error names the destination, never the path with its token."""
    with pytest.raises(kind, match=rf"^https://hooks\.example\.com:443 answered {status}") as raised:
        perform(HOOK, {"url": URL + "/tok"}, egress=ScriptedEgress(status, {"retry-after": "7"}))

    assert raised.value.retry_after_seconds == (7 if kind is Unreachable else None)


@pytest.mark.parametrize(
    ("with_", "finding"),
    [
        pytest.param({"signing-secret": "hunter2"}, "with.signing-secret: not a Standard-Webhooks secret", id="secret"),
        pytest.param({"headers": {"X-A": "a\r\nb"}}, "with.headers.X-A: has a line break", id="header"),
        pytest.param({"json": 2**70}, "with.json: cannot be written as JSON", id="too large a number"),
        pytest.param({"json": "\ud800"}, "with.json: cannot be written as JSON", id="half a character"),
        pytest.param({"url": ""}, "with.url: is empty", id="url"),
    ],
)
def test_values_that_cannot_be_sent_fail_the_step_with_their_place(with_, finding):
    """What a template gave and cannot be used is the automation's fault: nothing is sent, no secret is shown."""
    egress = ScriptedEgress()

    with pytest.raises(TemplateInvalid) as raised:
        perform(HOOK, {"url": URL, **with_}, egress=egress)

    assert str(raised.value).startswith(finding)
    assert "hunter2" not in str(raised.value)
    assert not egress.sent


@pytest.mark.parametrize(
    ("with_", "place", "message"),
    [
        pytest.param({"url": "hooks.example.com"}, "url", "https://", id="no scheme"),
        pytest.param({"url": "http://10.0.0.5/x"}, "url", "10.0.0.5:80 to UPSHOT_EGRESS_ALLOW", id="private"),
        pytest.param({"url": URL, "signing-secret": OLD}, "signing-secret", "secrets.SIGNING_SECRET", id="secret"),
        pytest.param(
            {"url": URL, "signing-secret": ["{{ secrets.A }}", OLD]}, "signing-secret", "secrets.", id="one of two"
        ),
    ],
)
def test_mistakes_are_found_when_the_automation_is_loaded(with_, place, message):
    """A URL that can never be reached, or a secret in the file, is found before anything fires."""
    ((found_place, found_message),) = HOOK.check(with_)

    assert found_place == place
    assert message in found_message
    assert OLD not in found_message


def test_templates_are_left_for_later():
    """What is not known yet is no finding."""
    assert not list(HOOK.check({"url": "{{ secrets.URL }}", "signing-secret": "{{ secrets.KEY }}"}))
