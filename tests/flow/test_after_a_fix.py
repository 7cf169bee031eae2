"""After a mistake is corrected: retries with the corrected revision, replays, and executions that are held."""

import pytest

from upshot.domain.execution import AttemptState, ExecutionState
from upshot.errors import Conflict, NotFound
from upshot.execution.user_requests import RevisionChoice
from upshot.testing import ADMIN, World

GO = """
name: go
on: {custom: {name: go}}
steps:
  - id: first
    uses: webhook
    with: {url: https://first.example.com/}
  - id: second
    uses: webhook
    with: {url: https://second.example.com/, json: {value: "{{ event.data.valeu }}"}}
    retry: {attempts: 2, first: 4s, cap: 4s}
"""
FIXED = GO.replace("valeu", "value")


def world_with(automation):
    world = World()
    world.apply(automation)
    return world


def hosts(world):
    return [request.url.split("/")[2].partition(".")[0] for request in world.sent]


def emit(world, name="go", **data):
    event = world.emit(name, **data)
    world.run_until_idle()
    return event


# --- which revision a retry uses ------------------------------------------------------------------


def test_a_retry_after_a_template_was_corrected_uses_the_corrected_revision():
    """The step that failed is performed as the file says now. The steps before it are not repeated."""
    world = world_with(GO)
    emit(world, value=3)
    failed = world.execution()
    world.replace(FIXED)

    retried = world.retry(failed.id)
    world.run_until_idle()

    assert retried.revision_id != failed.revision_id
    assert world.execution().state is ExecutionState.SUCCEEDED
    assert hosts(world) == ["first", "second"]
    assert world.sent[1].json == {"value": "3"}
    assert [receipt.attempt for receipt in world.receipts(failed)] == [1, 1, 2]


@pytest.mark.parametrize("choice", [None, RevisionChoice.ORIGINAL])
def test_a_retry_after_a_refusal_keeps_its_revision(choice):
    """The receiver was corrected, not the file, so an edit of the file does not change what is sent."""
    world = world_with(FIXED)
    world.respond("https://second", status=404)
    emit(world, value=3)
    world.egress.reset()
    world.replace(FIXED.replace("value:", "changed:"))

    retried = world.retry(world.execution().id, revision=choice)
    world.run_until_idle()

    assert retried.revision_id == world.execution().revision_id
    assert world.sent[-1].json == {"value": "3"}


def test_a_retry_uses_the_revision_that_the_user_asks_for():
    """`current` sends what the file says now; `original` repeats the mistake of a template."""
    world = world_with(FIXED)
    world.respond("https://second", status=404)
    emit(world, value=3)
    world.egress.reset()
    world.replace(FIXED.replace("value:", "changed:"))
    world.retry(world.execution().id, revision=RevisionChoice.CURRENT)
    world.run_until_idle()
    assert world.sent[-1].json == {"changed": "3"}

    broken = world_with(GO)
    emit(broken, value=3)
    broken.replace(FIXED)
    broken.retry(broken.execution().id, revision=RevisionChoice.ORIGINAL)
    broken.run_until_idle()
    assert broken.receipts(broken.execution())[-1].state is AttemptState.INVALID


def test_a_retry_without_a_correction_keeps_the_revision_and_fails_again():
    """The current revision is the original one."""
    world = world_with(GO)
    emit(world)
    retried = world.retry(world.execution().id)
    world.run_until_idle()
    assert retried.revision_id == world.execution().revision_id
    assert world.execution().state is ExecutionState.FAILED


@pytest.mark.parametrize(
    "edited",
    [
        pytest.param(FIXED.replace("id: first", "id: other"), id="renamed"),
        pytest.param(
            FIXED.replace("- id: first\n    uses: webhook", "- id: first\n    uses: slack"), id="another action"
        ),
        pytest.param(FIXED[: FIXED.index("  - id: second")], id="removed"),
    ],
)
def test_a_revision_with_other_steps_cannot_continue_an_execution(edited):
    """The retry is refused, because a completed step could be sent twice or not at all. The message says what to do."""
    if "slack" in edited:
        edited = edited.replace(
            "with: {url: https://first.example.com/}", "with: {webhook: https://x.example.com/, text: x}"
        )
    world = world_with(GO)
    emit(world)
    world.replace(edited)

    with pytest.raises(Conflict, match=r"other steps.*events replay.*--revision original"):
        world.retry(world.execution().id)


def test_a_completed_step_without_an_id_must_be_unchanged():
    """Its id is its position. A step that was inserted before it must not take its place."""
    world = world_with(GO.replace("    id: first\n", "").replace("- id: first\n    uses", "- uses"))
    emit(world, value=1)
    inserted = FIXED.replace("- id: first\n    uses", "- uses").replace("first.example", "inserted.example")
    world.replace(inserted)

    with pytest.raises(Conflict, match=r"step-1.*has changed"):
        world.retry(world.execution().id)

    world.replace(FIXED.replace("- id: first\n    uses", "- uses"))
    world.retry(world.execution().id)
    world.run_until_idle()
    assert hosts(world) == ["first", "second"]


def test_an_automation_that_is_gone_has_no_current_revision():
    """The message says that the automation is not loaded. A retry with the original revision still works."""
    world = world_with(GO)
    emit(world)
    world.replace(GO.replace("name: go\non", "name: other\non"))
    with pytest.raises(Conflict, match="not loaded"):
        world.retry(world.execution("go").id)
    world.retry(world.execution("go").id, revision=RevisionChoice.ORIGINAL)


CONDITION = "name: go\non: {custom: {name: go}}\nif: event.data.valeu > 2\nsteps:\n  - {uses: webhook, with: {url: 'https://x.example.com/'}}\n"


def test_a_retry_after_an_if_was_corrected_evaluates_it():
    """An execution that failed by its `if` starts only if the corrected `if` is true."""
    world = world_with(CONDITION)
    small, large = emit(world, value=1), emit(world, value=3)
    by_event = {execution.event_id: execution for execution in world.all_executions()}
    with pytest.raises(Conflict, match="would fail again"):
        world.retry(by_event[large.id].id)

    world.replace(CONDITION.replace("valeu", "value"))
    skipped = world.retry(by_event[small.id].id)
    world.retry(by_event[large.id].id)
    world.run_until_idle()

    assert (skipped.state, skipped.reason) == (ExecutionState.SKIPPED, "if: event.data.value > 2 is false")
    assert skipped.revision_id != by_event[small.id].revision_id
    assert len(world.sent) == 1


# --- replays --------------------------------------------------------------------------------------


def test_a_replay_is_a_new_execution_with_delivery_ids_of_its_own():
    """The event is answered again by what is loaded now, and the execution is marked."""
    world = world_with(FIXED)
    event = emit(world, value=3)

    (answer,) = world.replay(event).answers
    world.run_until_idle()

    first, again = sorted(world.all_executions(), key=lambda execution: execution.is_replay)
    assert (first.is_replay, again.is_replay, again.id) == (False, True, answer.execution.id)
    assert again.state is ExecutionState.SUCCEEDED
    assert len({request.delivery_id for request in world.sent}) == 4


def test_an_event_that_nobody_answered_can_be_replayed():
    """An automation that is added later answers it."""
    world = world_with(FIXED)
    event = emit(world, name="missed", value=1)
    assert world.replay(event).reason == "no automation answers it now"
    world.replace(FIXED.replace("{name: go}", "{name: missed}"))

    assert [answer.automation for answer in world.replay(event, dry_run=True).answers] == ["go"]
    assert world.all_executions() == ()
    world.replay(event)
    world.run_until_idle()

    assert world.execution().state is ExecutionState.SUCCEEDED


def test_a_replay_can_be_limited_to_one_automation():
    """Another automation stays out. If the named one does not answer the event, the reason says why."""
    world = world_with(FIXED + "---" + FIXED.replace("name: go\non", "name: also\non"))
    event = emit(world, value=1)

    (answer,) = world.replay(event, automation="also").answers
    assert answer.automation == "also"
    assert len(world.all_executions()) == 3
    (miss,) = world.replay(emit(world, name="other"), automation="also").answers
    assert "name is 'other'" in miss.reason
    with pytest.raises(NotFound, match="did you mean 'also'"):
        world.replay(event, automation="als")


def test_an_unmatched_event_is_not_replayed():
    """It will be answered anyway."""
    world = world_with(FIXED)
    assert "no worker has matched it yet" in world.replay(world.emit("go", value=1)).reason


def test_nothing_overtakes_a_replay():
    """A user replays an older event on purpose, although a newer one has been delivered."""
    deploy = FIXED.replace("{custom: {name: go}}", "{alias-added: {alias: production}}").replace(
        "{{ event.data.value }}", "{{ version.name }}"
    )
    world = world_with(deploy)
    world.link(alias="production")
    world.link(alias="production")
    world.run_until_idle()
    oldest = min(world.all_executions(), key=lambda execution: execution.event_id)

    world.replay(world.events.find(oldest.event_id).event)
    world.clock.advance(seconds=60)
    world.run_until_idle()

    assert world.sent[-1].json == {"value": "v0"}


# --- disabled automations -------------------------------------------------------------------------

DISABLED = FIXED + "enabled: false\n"


def test_a_disabled_automation_holds_what_waits_and_releases_it():
    """A retry that becomes due is not sent while the automation is disabled, and is sent when it is enabled again."""
    world = world_with(FIXED)
    world.respond("https://second", status=503, times=1)
    emit(world, value=3)
    world.replace(DISABLED)
    world.clock.advance(seconds=60)
    world.run_until_idle()

    held = world.execution()
    assert held.state is ExecutionState.WAITING
    assert "disabled" in held.reason
    assert hosts(world) == ["first", "second"]

    world.replace(FIXED)
    world.run_until_idle()
    assert world.execution().state is ExecutionState.SUCCEEDED
    assert len({request.delivery_id for request in world.sent[1:]}) == 1


def test_a_held_execution_can_be_cancelled_and_stays_held_if_its_file_is_gone():
    """Only an automation that is enabled releases it."""
    world = world_with(FIXED)
    world.respond("https://second", status=503, times=1)
    emit(world, value=3)
    world.replace(DISABLED)
    world.clock.advance(seconds=60)
    world.run_until_idle()
    world.replace(FIXED.replace("name: go\non", "name: other\non"))
    world.run_until_idle()
    assert world.execution("go").state is ExecutionState.WAITING

    world.cancel(world.execution("go").id)
    world.replace(FIXED)
    world.run_until_idle()
    assert hosts(world) == ["first", "second"]


def test_a_disabled_automation_holds_the_steps_after_a_job():
    """The end of the job does not start the next step. Once the automation is enabled, its outputs are there."""
    launch = """
name: train
on: {custom: {name: go}}
steps:
  - {id: run, uses: launch, with: {image: trainer}}
  - {uses: webhook, with: {url: "https://x.example.com/", json: {score: "{{= steps.run.outputs.score }}"}}}
"""
    world = world_with(launch)
    emit(world)
    world.replace(launch + "enabled: false\n")
    world.finish_job(outputs={"score": 1})
    world.run_until_idle()
    assert "disabled" in world.execution().reason
    assert world.sent == []

    world.replace(launch)
    world.run_until_idle()
    assert [request.json for request in world.sent] == [{"score": 1}]


def test_many_held_executions_are_all_released():
    """More executions than an automation may have in progress are released one after the other."""
    patient = FIXED.replace("attempts: 2", "attempts: 9")
    world = world_with(patient)
    world.respond("https://second", status=503, times=120)
    for _ in range(120):
        world.emit("go", value=1)
    world.run_until_idle()
    world.replace(patient + "enabled: false\n")
    world.clock.advance(seconds=60)
    world.run_until_idle()
    assert {execution.state for execution in world.all_executions()} == {ExecutionState.WAITING}

    world.replace(patient)
    for _ in range(10):
        world.clock.advance(seconds=60)
        world.run_until_idle()

    assert {execution.state for execution in world.all_executions()} == {ExecutionState.SUCCEEDED}


def test_the_alias_of_a_retried_execution_still_counts():
    """A retry with the current revision is refused if a newer execution has completed the step."""
    deploy = GO.replace("{custom: {name: go}}", "{alias-added: {alias: production}}")
    fixed = deploy.replace("{{ event.data.valeu }}", "{{ version.name }}")
    world = world_with(deploy)
    world.link(alias="production")
    world.run_until_idle()
    failed = world.execution()
    world.replace(fixed)
    version = world.link()
    world.registry.add_alias("model", "churn", "production", version.name, origin=ADMIN)
    world.run_until_idle()

    with pytest.raises(Conflict, match="overtaken"):
        world.retry(failed.id)
    world.retry(failed.id, force=True)
    world.run_until_idle()
    assert world.sent[-1].json == {"value": "v0"}
