"""From a mutation to what arrives: a story per test, in a world where only the receivers are made up."""

import pytest

from upshot.domain.execution import AttemptState, ExecutionState
from upshot.errors import Ambiguous, AutomationInvalid, Unreachable
from upshot.testing import ANN, World

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
    """A world with the deploy automation."""
    world = World(secrets={"TOKEN": "t0p-s3cret"})
    world.apply(DEPLOY)
    return world


def test_moving_an_alias_posts_the_rendered_payload(world):
    """Moving `production` posts once, with what was true at that moment."""
    world.link("churn", alias="production")
    world.link("churn", alias="production")
    world.settle()
    assert [post.json for post in world.sent] == [
        {"model": "churn", "version": "v0", "replaces": None, "accuracy": None},
        {"model": "churn", "version": "v1", "replaces": "v0", "accuracy": None},
    ]


def test_what_nothing_answers_leaves_no_execution(world):
    """An alias that nobody asked for, in a registry that nobody asked for."""
    world.link("churn", alias="staging")
    world.link("iris", alias="production", registry="dataset")
    world.settle()
    assert world.all_executions() == ()
    assert world.sent == []


def test_a_name_with_quotes_cannot_change_a_payload(world):
    """Payloads are trees until they are sent: what is filled in stays a text."""
    name = 'x", "admin", {{ secrets.TOKEN }}, "y'
    world.link(name, alias="production")
    world.settle()
    assert world.sent[0].json["model"] == name


def test_a_receiver_that_is_down_gets_it_later(world):
    """Retries wait longer each time, carry the same delivery id, and stop when one succeeds."""
    world.answer("https://deploy.example.com", status=503, times=2)
    world.link(alias="production")
    world.settle()
    execution = world.execution()
    assert execution.state is ExecutionState.WAITING
    assert "503" in execution.reason
    assert 2 <= (execution.due_at - world.clock.now()).total_seconds() <= 4

    for _ in range(2):
        world.clock.advance(seconds=8)
        world.settle()
    assert world.execution().state is ExecutionState.SUCCEEDED
    assert len({post.delivery for post in world.sent}) == 1
    states = [receipt.state for receipt in world.receipts(world.execution())]
    assert states == [AttemptState.UNREACHABLE, AttemptState.UNREACHABLE, AttemptState.SUCCEEDED]


def test_a_receiver_is_not_called_sooner_than_it_asked(world):
    """`Retry-After` rules over our own waits."""
    world.answer("https://deploy.example.com", status=429, headers={"retry-after": "120"}, times=1)
    world.link(alias="production")
    world.settle()
    world.clock.advance(seconds=119)
    world.settle()
    assert len(world.sent) == 1
    world.clock.advance(seconds=2)
    world.settle()
    assert world.execution().state is ExecutionState.SUCCEEDED


def test_a_refusal_is_final(world):
    """A 404 stops at once, and says what came back."""
    world.answer("https://deploy.example.com", status=404, body=b"no such hook")
    world.link(alias="production")
    world.settle()
    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert "404" in execution.reason
    assert world.receipts(execution)[0].response["body"] == "no such hook"


def test_giving_up_after_the_last_attempt(world):
    """Three attempts were allowed, three are made."""
    world.answer("https://deploy.example.com", error=Unreachable("no connection"))
    world.link(alias="production")
    for _ in range(6):
        world.settle()
        world.clock.advance(seconds=60)
    assert world.execution().state is ExecutionState.FAILED
    assert len(world.sent) == 3


def test_an_answer_that_never_came_is_asked_for_again_under_the_same_id(world):
    """The receiver may have acted: the delivery id lets it drop the second."""
    world.answer("https://deploy.example.com", error=Ambiguous("no answer"), times=1)
    world.link(alias="production")
    world.settle()
    world.clock.advance(seconds=4)
    world.settle()
    first, second = world.sent
    assert first.delivery == second.delivery
    assert [r.state for r in world.receipts(world.execution())] == [AttemptState.AMBIGUOUS, AttemptState.SUCCEEDED]


STORY = """
name: story
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


def test_later_steps_read_what_earlier_ones_gave(world):
    """Outputs keep their types, a skipped step is `skipped`, and the secret is sent and not kept."""
    world.apply(STORY)
    world.answer("https://score.example.com", headers={"content-type": "application/json"}, body=b'{"score": 0.95}')
    world.emit("trained", accuracy=0.95)
    world.settle()
    score, deliver = world.sent
    assert score.json == {"accuracy": 0.95}
    assert deliver.json == {"score": 0.95, "announced": "skipped"}
    assert deliver.headers["Authorization"] == "Bearer t0p-s3cret"
    execution = world.execution()
    assert execution.state is ExecutionState.SUCCEEDED
    assert "t0p-s3cret" not in repr(execution) + repr(world.receipts(execution))


def test_a_gate_that_does_not_hold_fails_and_tells(world):
    """The reason reaches the on-failure step, and nothing behind the gate runs."""
    world.apply(STORY)
    world.answer("https://score.example.com", headers={"content-type": "application/json"}, body=b'{"score": 0.5}')
    world.emit("trained", accuracy=0.5)
    world.settle()
    assert [post.url for post in world.sent] == ["https://score.example.com", "https://alarm.example.com"]
    assert world.sent[1].json == {"text": "gate: score is below 0.9"}
    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert execution.reason == "step gate: score is below 0.9"


def test_an_if_that_is_false_is_a_miss_and_one_that_breaks_is_seen(world):
    """Not answering is explained; not being able to tell is a failed execution."""
    world.apply(STORY)
    world.apply("""
name: broken-if
on: {custom: {name: trained}}
if: event.data.accuracy > 0.5
steps: [{uses: webhook, with: {url: "https://never.example.com"}}]
""")
    world.emit("trained")
    world.settle()
    (execution,) = world.all_executions()
    assert execution.automation == "broken-if"
    assert execution.state is ExecutionState.FAILED
    assert "accuracy" in execution.reason
    assert world.sent == []


def test_a_secret_that_nobody_set_is_a_clear_failure(world):
    """It names the secret and how to set it; nothing is sent and nothing is tried again."""
    world.apply("""
name: needs-secret
on: {custom: {name: go}}
steps: [{uses: webhook, with: {url: "https://x.example.com", headers: {X-Key: "{{ secrets.MISSING }}"}}}]
""")
    world.emit("go")
    world.settle()
    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert "UPSHOT_SECRET_MISSING" in execution.reason
    assert world.sent == []


CHAIN = """
name: promote
on: {alias-added: {registry: model, alias: candidate}}
steps:
  - uses: add-tag
    with: {tag: checked}
  - uses: add-alias
    with: {alias: production}
"""


def test_an_automation_that_changes_the_registry_fires_the_next_one(world):
    """One alias in, a dispatch out; the second event knows what led to it."""
    world.apply(CHAIN)
    world.link(alias="candidate")
    world.settle()
    assert [post.json["version"] for post in world.sent] == ["v0"]
    version = world.registry.version("model", "churn", "production")
    assert version.artifact.tags == ("checked",)
    deploy = world.execution("deploy")
    event = world.events.get([deploy.event])[deploy.event]
    assert [cause.automation for cause in event.chain] == ["promote"]
    assert event.actor.name == "promote"


def test_an_automation_does_not_answer_itself(world):
    """A loop ends at its first turn, and is there to be seen."""
    world.apply("""
name: loop
on: {alias-added: {registry: model, alias: [a, b]}}
steps: [{uses: add-alias, with: {alias: "{{ 'b' if alias == 'a' else 'a' }}"}}]
""")
    world.link(alias="a")
    world.settle()
    states = sorted(one.state.value for one in world.all_executions("loop"))
    assert states == ["skipped", "succeeded"]
    (skipped,) = [one for one in world.all_executions("loop") if one.state is ExecutionState.SKIPPED]
    assert "caused by this automation itself" in skipped.reason


def test_a_failure_is_an_event_that_automations_answer(world):
    """One automation watches over all others, and not over itself."""
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
    world.answer("https://deploy.example.com", status=404)
    world.answer("https://alarm.example.com", status=404)
    world.link(alias="production")
    world.settle()
    alarms = [post.json for post in world.sent if post.url.startswith("https://alarm.")]
    assert len(alarms) == 1
    assert alarms[0]["text"].startswith("deploy failed: step call: ")
    assert alarms[0]["model"] == "churn"


def test_a_person_retries_what_failed(world):
    """From the failed step, under the same delivery id."""
    world.answer("https://deploy.example.com", status=403, times=1)
    world.link(alias="production")
    world.settle()
    world.retry(world.execution().id)
    world.settle()
    assert world.execution().state is ExecutionState.SUCCEEDED
    assert len(world.sent) == 2
    assert len({post.delivery for post in world.sent}) == 1


def test_a_person_cancels_what_waits(world):
    """Nothing is sent any more."""
    world.answer("https://deploy.example.com", status=503)
    world.link(alias="production")
    world.settle()
    world.cancel(world.execution().id)
    world.clock.advance(seconds=600)
    world.settle()
    assert world.execution().state is ExecutionState.CANCELLED
    assert len(world.sent) == 1


def test_an_execution_finishes_with_the_revision_that_it_began_with(world):
    """The file changes between two attempts; the payload does not."""
    world.answer("https://deploy.example.com", status=503, times=1)
    world.link(alias="production")
    world.settle()
    world.replace(DEPLOY.replace("{{ collection.name }}", "changed"))
    world.clock.advance(seconds=10)
    world.settle()
    assert [post.json["model"] for post in world.sent] == ["churn", "churn"]
    world.link(alias="production")
    world.settle()
    assert world.sent[-1].json["model"] == "changed"


def test_a_lost_stream_is_made_up_for(world):
    """Redis was away at the mutation, then came back empty."""
    world.stream.is_down = True
    world.link(alias="production")
    world.settle()
    assert world.sent == []
    world.stream.is_down = False
    world.clock.advance(seconds=6)
    world.settle()
    assert len(world.sent) == 1


def test_an_automation_that_is_not_enabled_does_nothing(world):
    """It is loaded, and answers no event."""
    world.replace(DEPLOY + "enabled: false\n")
    world.link(alias="production")
    world.settle()
    assert world.all_executions() == ()


def test_a_mistake_is_named_with_its_place(world):
    """What `apply` raises is what `validate` prints."""
    with pytest.raises(AutomationInvalid, match=r"test\.yaml:4: .*slak.*did you mean 'slack'"):
        world.apply("name: x\non: version-linked\nsteps:\n  - uses: slak\n")


def test_a_step_that_may_fail_does_not_stop_the_rest(world):
    """`continue-on-error` keeps the failure and goes on."""
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
    world.answer("https://first.example.com", status=400)
    world.emit("go")
    world.settle()
    assert world.execution().state is ExecutionState.SUCCEEDED
    assert world.sent[1].json == {"first": "failed"}


def test_without_a_body_the_event_itself_is_sent(world):
    """As a structured CloudEvent, signed when there is a secret."""
    world.apply("""
name: plain
on: {alias-added: {registry: model, alias: staging}}
steps: [{uses: webhook, with: {url: "https://plain.example.com"}}]
""")
    world.link(alias="staging")
    world.settle()
    (post,) = world.sent
    assert "application/cloudevents+json" in post.headers.values()
    assert post.json["type"] == "upshot.alias-added"
    assert post.json["subject"] == "model/churn:v0"
    assert post.json["data"]["version"]["reference"] == "model/churn:v0"


def test_actors_are_named_in_what_they_cause(world):
    """Who moved the alias stands in the event."""
    world.link(alias="production")
    (event,) = [
        one.event
        for one in world.all_events()
        if one.event.kind == "alias-added" and one.event.data["alias"] == "production"
    ]
    assert event.actor.name == ANN.name
