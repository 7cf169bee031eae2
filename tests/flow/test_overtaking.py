"""A late attempt does not restore an older state of an alias."""

import pytest

from upshot.domain.execution import ExecutionState
from upshot.errors import Conflict, Unreachable
from upshot.testing import ADMIN, World

DEPLOY = """
name: deploy
on:
  alias-added: {alias: production}
  alias-removed: {alias: production}
steps:
  - id: call
    uses: webhook
    with: {url: "https://deploy.example.com/{{ version.name }}", json: {version: "{{ version.name }}"}}
    retry: {first: 4s, cap: 4s, attempts: 3}
"""


def world_with(automation=DEPLOY):
    world = World()
    world.apply(automation)
    return world


def paths(world):
    return [request.url.rpartition("/")[2] for request in world.sent]


def later(world, seconds=10):
    world.clock.advance(seconds=seconds)
    world.run_until_idle()


def move(world, collection="churn", **respond):
    """Move `production` to a new version, whose requests are answered as given; return its execution."""
    before = {execution.id for execution in world.all_executions("deploy")}
    version = world.link(collection)
    if respond:
        world.respond(f"https://deploy.example.com/{version.name}", **respond)
    world.registry.add_alias("model", collection, "production", version.name, origin=ADMIN)
    world.run_until_idle()
    added = [execution for execution in world.all_executions("deploy") if execution.id not in before]
    return next(e for e in added if world.events.find(e.event_id).event.kind == "alias-added").id


ADDED_ONLY = DEPLOY.replace("  alias-removed: {alias: production}\n", "")
BUSY = {"error": Unreachable("503"), "times": 1}


def test_a_retry_is_skipped_if_a_newer_event_was_delivered():
    """The receiver ends with the version that holds the alias."""
    world = world_with(ADDED_ONLY)
    older = move(world, **BUSY)
    newer = move(world)

    later(world)

    assert paths(world) == ["v0", "v1"]
    execution = world.executions.find(older)[0]
    assert (execution.state, execution.reason) == (ExecutionState.SKIPPED, f"overtaken by {newer}")
    assert execution.steps[0].reason == f"overtaken by {newer}"
    assert [stored.event.kind for stored in world.all_events() if stored.event.kind == "execution-failed"] == []


def test_a_retry_is_sent_while_the_newer_event_waits_too():
    """Only what was delivered can be undone, so an outage of the receiver loses nothing."""
    world = world_with(ADDED_ONLY)
    move(world, **BUSY)
    move(world, error=Unreachable("503"), times=2)
    later(world, 4)
    later(world)
    assert paths(world)[-1] == "v1"
    assert sorted(paths(world)) == ["v0", "v0", "v1", "v1", "v1"]


@pytest.mark.parametrize("other", ["alias", "collection", "automation"])
def test_only_the_same_alias_collection_and_automation_overtake(other):
    """Other deliveries say nothing about the state that the retry sends."""
    world = world_with(ADDED_ONLY.replace("{alias: production}", "{}"))
    move(world, **BUSY)
    if other == "alias":
        world.link(alias="staging")
    elif other == "collection":
        move(world, collection="iris")
    else:
        world.replace(ADDED_ONLY.replace("name: deploy", "name: deploy-too"))
        world.link(alias="production")
    world.run_until_idle()

    later(world)

    assert paths(world).count("v0") >= 2
    assert ExecutionState.SKIPPED not in {execution.state for execution in world.all_executions()}


def test_removing_an_alias_is_overtaken_by_adding_it():
    """`alias-removed` and `alias-added` of one alias are in one order."""
    world = world_with()
    world.link(alias="production")
    world.run_until_idle()
    world.respond("https://deploy.example.com/v0", **BUSY)
    world.registry.remove_alias("model", "churn", "production", origin=ADMIN)
    world.run_until_idle()
    world.registry.add_alias("model", "churn", "production", "v0", origin=ADMIN)
    world.run_until_idle()

    later(world)

    assert paths(world) == ["v0", "v0", "v0"]
    (skipped,) = (e for e in world.all_executions() if e.state is ExecutionState.SKIPPED)
    assert world.events.find(skipped.event_id).event.kind == "alias-removed"


def test_the_check_is_made_for_each_step():
    """A step that no newer execution has completed is performed; those after an overtaken step are not."""
    world = world_with(
        ADDED_ONLY
        + """
  - id: second
    uses: webhook
    with: {url: "https://second.example.com/{{ version.name }}", json: {}}
  - id: third
    uses: webhook
    with: {url: "https://third.example.com/{{ version.name }}", json: {}}
"""
    )
    world.respond("https://second.example.com/v0", **BUSY)
    older = move(world)
    newer = move(world)
    later(world)
    execution = world.executions.find(older)[0]
    assert [step.state.value for step in execution.steps] == ["succeeded", "skipped", "skipped"]
    assert execution.reason == f"overtaken by {newer}"


NOTIFY = """
  - id: notify
    uses: slack
    with: {webhook: "https://hooks.example.com/{{ version.name }}", text: "{{ version.name }}"}
"""


def test_a_step_can_be_sent_although_it_is_overtaken():
    """`overtaken: send` keeps the retry."""
    world = world_with(ADDED_ONLY + "    overtaken: send\n")
    older = move(world, **BUSY)
    move(world)
    later(world)
    assert paths(world) == ["v0", "v1", "v0"]
    assert world.executions.find(older)[0].state is ExecutionState.SUCCEEDED


def test_slack_sends_by_default():
    """A message is a record of its event. It follows an overtaken step, and the execution is skipped all the same."""
    world = world_with(ADDED_ONLY + NOTIFY)
    older = move(world, **BUSY)
    newer = move(world)
    later(world)
    execution = world.executions.find(older)[0]
    assert [step.state.value for step in execution.steps] == ["skipped", "succeeded"]
    assert (execution.state, execution.reason) == (ExecutionState.SKIPPED, f"overtaken by {newer}")


def test_slack_can_be_skipped():
    """`overtaken: skip` is allowed for every action."""
    world = world_with(ADDED_ONLY + NOTIFY + "    overtaken: skip\n")
    older = move(world, **BUSY)
    move(world)
    later(world)
    assert [step.state.value for step in world.executions.find(older)[0].steps] == ["skipped", "skipped"]


def test_a_first_attempt_long_after_its_event_is_late_too():
    """An event that was lost in the stream and published again does not restore an older state."""
    world = world_with(ADDED_ONLY)
    world.link()
    world.registry.add_alias("model", "churn", "production", "v0", origin=ADMIN)
    world.stream.flush()
    newer = move(world)
    assert paths(world) == ["v1"]

    later(world)

    assert paths(world) == ["v1"]
    (skipped,) = (e for e in world.all_executions() if e.state is ExecutionState.SKIPPED)
    assert skipped.reason == f"overtaken by {newer}"


def test_a_retry_by_a_user_is_refused_unless_it_is_forced():
    """The error names the newer execution. A forced retry is sent, and nothing is refused without a newer delivery."""
    world = world_with(ADDED_ONLY.replace("attempts: 3", "attempts: 1"))
    failed = move(world, **BUSY)
    world.retry(failed)
    world.run_until_idle()
    assert paths(world) == ["v0", "v0"]

    failed = move(world, **BUSY)
    newer = move(world)
    with pytest.raises(Conflict, match=rf"{failed} is overtaken by {newer}: .*'call'.*--force"):
        world.retry(failed)

    world.retry(failed, force=True)
    world.run_until_idle()
    assert paths(world)[-1] == "v1"
    assert world.executions.find(failed)[0].state is ExecutionState.SUCCEEDED


def test_an_overtaken_execution_can_be_forced():
    """A user may want the older state, such as for a rollback without moving the alias."""
    world = world_with(ADDED_ONLY)
    older = move(world, **BUSY)
    newer = move(world)
    later(world)
    with pytest.raises(Conflict, match=f"overtaken by {newer}"):
        world.retry(older)
    world.retry(older, force=True)
    later(world)
    assert paths(world) == ["v0", "v1", "v0"]
    assert world.executions.find(older)[0].state is ExecutionState.SUCCEEDED


def test_a_first_attempt_in_time_is_not_checked(monkeypatch):
    """The check costs a query, which the first attempts of a busy worker do not pay."""
    world = world_with(ADDED_ONLY)
    monkeypatch.setattr(world.executions, "find_overtaking", None)
    move(world)
    move(world)
    assert paths(world) == ["v0", "v1"]
