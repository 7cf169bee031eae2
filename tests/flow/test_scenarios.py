"""From a mutation to the requests that leave, with real automations and fake receivers."""

import orjson
import pytest

from upshot.domain.execution import AttemptState, ExecutionState
from upshot.errors import Ambiguous, AutomationInvalid, Unreachable
from upshot.testing import ADMIN, World

DEPLOY = """
name: deploy
on:
  alias-added: {registry: model, alias: production}
steps:
  - id: call
    uses: webhook
    with:
      url: https://deploy.example.com/hook
      json:
        model: "{{ collection.name }}"
        version: "{{ version.name }}"
        replaces: "{{= previous.name }}"
        accuracy: "{{= version.metadata.accuracy | default(none) }}"
    retry: {first: 4s, cap: 1m, attempts: 3}
"""


@pytest.fixture
def world():
    """Return a world with the `deploy` automation."""
    world = World(secrets={"TOKEN": "t0p-s3cret"})
    world.apply(DEPLOY)
    return world


def test_moving_an_alias_posts_the_rendered_payload(world):
    """Moving `production` posts once. The payload has the data of that moment."""
    world.link("churn", alias="production")
    world.link("churn", alias="production")
    world.run_until_idle()
    assert [request.json for request in world.sent] == [
        {"model": "churn", "version": "v0", "replaces": None, "accuracy": None},
        {"model": "churn", "version": "v1", "replaces": "v0", "accuracy": None},
    ]


def test_an_event_that_no_automation_answers_has_no_execution(world):
    """Neither another alias nor another registry matches the automation."""
    world.link("churn", alias="staging")
    world.link("iris", alias="production", registry="dataset")
    world.run_until_idle()
    assert world.all_executions() == ()
    assert world.sent == []


def test_a_name_with_quotes_cannot_change_a_payload(world):
    """A payload is a tree until it is sent, so a rendered value stays one string."""
    name = 'x", "admin", {{ secrets.TOKEN }}, "y'
    world.link(name, alias="production")
    world.run_until_idle()
    assert world.sent[0].json["model"] == name


def test_a_request_is_retried_until_the_receiver_is_up(world):
    """Retries wait longer each time, have the same delivery id, and stop after a success."""
    world.respond("https://deploy.example.com", status=503, times=2)
    world.link(alias="production")
    world.run_until_idle()
    execution = world.execution()
    assert execution.state is ExecutionState.WAITING
    assert "503" in execution.reason
    assert 2 <= (execution.due_at - world.clock.now()).total_seconds() <= 4

    for _ in range(2):
        world.clock.advance(seconds=8)
        world.run_until_idle()
    assert world.execution().state is ExecutionState.SUCCEEDED
    assert len({request.delivery_id for request in world.sent}) == 1
    states = [receipt.state for receipt in world.receipts(world.execution())]
    assert states == [AttemptState.UNAVAILABLE, AttemptState.UNAVAILABLE, AttemptState.SUCCEEDED]


def test_retry_after_is_honoured(world):
    """`Retry-After` overrides the wait of the retry policy."""
    world.respond("https://deploy.example.com", status=429, headers={"retry-after": "120"}, times=1)
    world.link(alias="production")
    world.run_until_idle()
    world.clock.advance(seconds=119)
    world.run_until_idle()
    assert len(world.sent) == 1
    world.clock.advance(seconds=2)
    world.run_until_idle()
    assert world.execution().state is ExecutionState.SUCCEEDED


def test_a_refusal_is_final(world):
    """A 404 fails the step at once, and the receipt has the response."""
    world.respond("https://deploy.example.com", status=404, body=b"no such hook")
    world.link(alias="production")
    world.run_until_idle()
    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert "404" in execution.reason
    assert world.receipts(execution)[0].response["body"] == "no such hook"


def test_a_step_fails_after_its_last_attempt(world):
    """The policy allows three attempts, and three are made."""
    world.respond("https://deploy.example.com", error=Unreachable("no connection"))
    world.link(alias="production")
    for _ in range(6):
        world.run_until_idle()
        world.clock.advance(seconds=60)
    assert world.execution().state is ExecutionState.FAILED
    assert len(world.sent) == 3


def test_a_request_without_a_response_is_repeated_with_the_same_delivery_id(world):
    """The receiver may have acted. The delivery id lets it drop the second request."""
    world.respond("https://deploy.example.com", error=Ambiguous("no answer"), times=1)
    world.link(alias="production")
    world.run_until_idle()
    world.clock.advance(seconds=4)
    world.run_until_idle()
    first, second = world.sent
    assert first.delivery_id == second.delivery_id
    assert [receipt.state for receipt in world.receipts(world.execution())] == [
        AttemptState.AMBIGUOUS,
        AttemptState.SUCCEEDED,
    ]


STEPS = """
name: steps
on: {custom: {name: trained}}
if: event.data.accuracy is defined
vars: {bar: 0.9}
steps:
  - id: score
    uses: webhook
    with: {url: "https://score.example.com", json: {accuracy: "{{= event.data.accuracy }}"}}
  - id: gate
    uses: require
    with: {that: steps.score.outputs.body.score >= vars.bar, otherwise: "score is below {{ vars.bar }}"}
  - id: optional
    if: event.data.publish | default(false)
    uses: webhook
    with: {url: "https://announce.example.com"}
  - id: deliver
    uses: webhook
    with:
      url: "https://deliver.example.com"
      headers: {Authorization: "Bearer {{ secrets.TOKEN }}"}
      json: {score: "{{= steps.score.outputs.body.score }}", announced: "{{ steps.optional.state }}"}
on-failure:
  - uses: webhook
    with: {url: "https://alarm.example.com", json: {text: "{{ failure.step }}: {{ failure.reason }}"}}
"""


def test_later_steps_read_the_outputs_of_earlier_steps(world):
    """Outputs keep their types, a skipped step has the state `skipped`, and a secret is sent but not stored."""
    world.apply(STEPS)
    world.respond("https://score.example.com", headers={"content-type": "application/json"}, body=b'{"score": 0.95}')
    world.emit("trained", accuracy=0.95)
    world.run_until_idle()
    score, deliver = world.sent
    assert score.json == {"accuracy": 0.95}
    assert deliver.json == {"score": 0.95, "announced": "skipped"}
    assert deliver.headers["Authorization"] == "Bearer t0p-s3cret"
    execution = world.execution()
    assert execution.state is ExecutionState.SUCCEEDED
    assert "t0p-s3cret" not in repr(execution) + repr(world.receipts(execution))


def test_a_require_that_is_not_met_fails_the_execution(world):
    """The on-failure step gets the reason, and no later step runs."""
    world.apply(STEPS)
    world.respond("https://score.example.com", headers={"content-type": "application/json"}, body=b'{"score": 0.5}')
    world.emit("trained", accuracy=0.5)
    world.run_until_idle()
    assert [request.url for request in world.sent] == ["https://score.example.com", "https://alarm.example.com"]
    assert world.sent[1].json == {"text": "gate: score is below 0.9"}
    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert execution.reason == "step gate: score is below 0.9"


def test_an_if_that_fails_creates_an_execution_and_a_false_if_does_not(world):
    """If an `if` is false, there is no execution. If it cannot be evaluated, the execution fails."""
    world.apply(STEPS)
    world.apply("""
name: broken-if
on: {custom: {name: trained}}
if: event.data.accuracy > 0.5
steps: [{uses: webhook, with: {url: "https://never.example.com"}}]
""")
    world.emit("trained")
    world.run_until_idle()
    (execution,) = world.all_executions()
    assert execution.automation == "broken-if"
    assert execution.state is ExecutionState.FAILED
    assert "accuracy" in execution.reason
    assert world.sent == []


def test_a_missing_secret_fails_the_execution(world):
    """The reason names the secret and says how to set it. Nothing is sent, and nothing is retried."""
    world.apply("""
name: needs-secret
on: {custom: {name: go}}
steps: [{uses: webhook, with: {url: "https://x.example.com", headers: {X-Key: "{{ secrets.MISSING }}"}}}]
""")
    world.emit("go")
    world.run_until_idle()
    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert "UPSHOT_SECRET_MISSING" in execution.reason
    assert world.sent == []


ASK = """
name: ask
on: {custom: {name: go}}
steps:
  - id: ask
    uses: webhook
    with: {url: "https://receiver.example.com/ask", headers: {X-Key: "{{ secrets.TOKEN }}"}}
    retry: {attempts: 2, first: 1s}
  - uses: webhook
    if: steps.ask.outputs.status == 200
    with: {url: "https://receiver.example.com/next"}
on-failure:
  - {uses: webhook, with: {url: "https://receiver.example.com/failed"}}
"""
HOSTILE_ANSWERS = [
    pytest.param(b"[" * 300 + b"]" * 300, {}, id="300 levels"),
    pytest.param(b'{"a":' * 900 + b'"t0p-s3cret"' + b"}" * 900, {}, id="900 levels"),
    pytest.param(b"[" * 100_000, {}, id="100,000 brackets"),
    pytest.param(b"[" * 100 + b'"t0p-s3cret"' + b"]" * 100, {}, id="as many levels as data can have"),
    pytest.param(b'{"id": 12345678901234567890123456, "n": 1e999}', {}, id="large numbers"),
    pytest.param(b"[" + b"9" * 100_000 + b"]", {}, id="a number with 100,000 digits"),
    pytest.param(b'{"a": "\\u0000\\ud800", "\\u0000": "\x00"}', {}, id="NUL and half a character"),
    pytest.param(b"\xff\xfe\x00", {}, id="bytes that are not text"),
    pytest.param(b"", {"server": "Bj\udcf8rn", "x\udcff": "\x00"}, id="a header that is not UTF-8"),
]


@pytest.mark.parametrize(("body", "headers"), HOSTILE_ANSWERS)
def test_any_answer_of_a_receiver_is_recorded(world, body, headers):
    """The request is sent once, later steps run, and the receipt can be stored and contains no secret."""
    world.apply(ASK)
    world.respond("https://receiver.example.com/ask", body=body, headers=headers)
    world.emit("go")
    world.run_until_idle()

    execution = world.execution()
    assert execution.state is ExecutionState.SUCCEEDED
    assert [request.url.rpartition("/")[2] for request in world.sent] == ["ask", "next"]
    stored = orjson.dumps([world.receipts(execution), execution])
    assert b"t0p-s3cret" not in stored


@pytest.mark.parametrize(("body", "headers"), HOSTILE_ANSWERS)
def test_any_answer_of_a_receiver_that_fails_leads_to_the_next_attempt(world, body, headers):
    """An answer that cannot be kept as it is changes nothing about retries, on-failure and the event of the failure."""
    world.apply(ASK)
    world.respond("https://receiver.example.com/ask", status=503, body=body, headers=headers)
    world.emit("go")
    world.run_until_idle()
    world.clock.advance(seconds=10)
    world.run_until_idle()

    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert "answered 503" in execution.reason
    assert [request.url.rpartition("/")[2] for request in world.sent] == ["ask", "ask", "failed"]
    assert b"t0p-s3cret" not in orjson.dumps([world.receipts(execution), execution])


CHAIN = """
name: promote
on: {alias-added: {registry: model, alias: candidate}}
steps:
  - uses: add-tag
    with: {tag: checked}
  - uses: add-alias
    with: {alias: production}
"""


def test_an_automation_that_changes_the_registry_triggers_another(world):
    """The second event has the chain that led to it."""
    world.apply(CHAIN)
    world.link(alias="candidate")
    world.run_until_idle()
    assert [request.json["version"] for request in world.sent] == ["v0"]
    version = world.registry.version("model", "churn", "production")
    assert version.artifact_version.tags == ("checked",)
    deploy = world.execution("deploy")
    event = world.events.get([deploy.event_id])[deploy.event_id]
    assert [cause.automation for cause in event.chain] == ["promote"]
    assert event.actor.name == "promote"


def test_an_automation_does_not_answer_itself(world):
    """A loop stops at its first repetition, and a skipped execution says so."""
    world.apply("""
name: loop
on: {alias-added: {registry: model, alias: [a, b]}}
steps: [{uses: add-alias, with: {alias: "{{ 'b' if alias == 'a' else 'a' }}"}}]
""")
    world.link(alias="a")
    world.run_until_idle()
    states = sorted(execution.state.value for execution in world.all_executions("loop"))
    assert states == ["skipped", "succeeded"]
    executions = world.all_executions("loop")
    (skipped,) = [execution for execution in executions if execution.state is ExecutionState.SKIPPED]
    assert "this automation itself caused the event" in skipped.reason


def test_automations_can_answer_the_event_of_a_failure(world):
    """An automation answers the failures of all others, but not its own."""
    world.apply("""
name: watch
on: execution-failed
steps:
  - uses: webhook
    with:
      url: https://alarm.example.com
      json:
        text: "{{ event.data.automation }} failed: {{ event.data.execution.reason }}"
        model: "{{ collection.name }}"
""")
    world.respond("https://deploy.example.com", status=404)
    world.respond("https://alarm.example.com", status=404)
    world.link(alias="production")
    world.run_until_idle()
    alarms = [request.json for request in world.sent if request.url.startswith("https://alarm.")]
    assert len(alarms) == 1
    assert alarms[0]["text"].startswith("deploy failed: step call: ")
    assert alarms[0]["model"] == "churn"


def test_a_user_retries_a_failed_execution(world):
    """The execution continues from the failed step, with the same delivery id."""
    world.respond("https://deploy.example.com", status=403, times=1)
    world.link(alias="production")
    world.run_until_idle()
    world.retry(world.execution().id)
    world.run_until_idle()
    assert world.execution().state is ExecutionState.SUCCEEDED
    assert len(world.sent) == 2
    assert len({request.delivery_id for request in world.sent}) == 1


def test_a_user_cancels_a_waiting_execution(world):
    """Nothing more is sent."""
    world.respond("https://deploy.example.com", status=503)
    world.link(alias="production")
    world.run_until_idle()
    world.cancel(world.execution().id)
    world.clock.advance(seconds=600)
    world.run_until_idle()
    assert world.execution().state is ExecutionState.CANCELLED
    assert len(world.sent) == 1


def test_an_execution_finishes_with_the_revision_that_it_started_with(world):
    """The file changes between two attempts, and the payload stays the same."""
    world.respond("https://deploy.example.com", status=503, times=1)
    world.link(alias="production")
    world.run_until_idle()
    world.replace(DEPLOY.replace("{{ collection.name }}", "changed"))
    world.clock.advance(seconds=10)
    world.run_until_idle()
    assert [request.json["model"] for request in world.sent] == ["churn", "churn"]
    world.link(alias="production")
    world.run_until_idle()
    assert world.sent[-1].json["model"] == "changed"


def test_a_lost_stream_loses_no_event(world):
    """Redis is down during the mutation and empty afterwards."""
    world.stream.is_down = True
    world.link(alias="production")
    world.run_until_idle()
    assert world.sent == []
    world.stream.is_down = False
    world.clock.advance(seconds=6)
    world.run_until_idle()
    assert len(world.sent) == 1


def test_an_automation_that_is_not_enabled_does_nothing(world):
    """The automation is loaded, but answers no event."""
    world.replace(DEPLOY + "enabled: false\n")
    world.link(alias="production")
    world.run_until_idle()
    assert world.all_executions() == ()


def test_an_invalid_automation_names_the_line_of_the_error(world):
    """`apply` raises the error that `validate` prints."""
    with pytest.raises(AutomationInvalid, match=r"test\.yaml:4: .*slak.*did you mean 'slack'"):
        world.apply("name: x\non: version-linked\nsteps:\n  - uses: slak\n")


def test_continue_on_error_goes_on_after_a_failed_step(world):
    """The step stays failed, and the next step runs."""
    world.apply("""
name: lenient
on: {custom: {name: go}}
steps:
  - id: first
    uses: webhook
    with: {url: "https://first.example.com"}
    continue-on-error: true
  - uses: webhook
    with: {url: "https://second.example.com", json: {first: "{{ steps.first.state }}"}}
""")
    world.respond("https://first.example.com", status=400)
    world.emit("go")
    world.run_until_idle()
    assert world.execution().state is ExecutionState.SUCCEEDED
    assert world.sent[1].json == {"first": "failed"}


def test_without_a_body_the_event_itself_is_sent(world):
    """The request has a structured CloudEvent, and is signed if there is a secret."""
    world.apply("""
name: plain
on: {alias-added: {registry: model, alias: staging}}
steps: [{uses: webhook, with: {url: "https://plain.example.com"}}]
""")
    world.link(alias="staging")
    world.run_until_idle()
    (request,) = world.sent
    assert "application/cloudevents+json" in request.headers.values()
    assert request.json["type"] == "upshot.alias-added"
    assert request.json["subject"] == "model/churn:v0"
    assert request.json["data"]["version"]["reference"] == "model/churn:v0"


def test_an_event_names_its_actor(world):
    """The event names the user who moved the alias."""
    world.link(alias="production")
    (event,) = [
        stored.event
        for stored in world.all_events()
        if stored.event.kind == "alias-added" and stored.event.data["alias"] == "production"
    ]
    assert event.actor.name == ADMIN.actor.name
