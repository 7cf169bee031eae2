"""A step that a job holds: the execution waits, held by no worker, and goes on with what the job gave."""

from __future__ import annotations

import pytest

from upshot.domain.execution import AttemptState, ExecutionState
from upshot.domain.job import FailureKind, JobState
from upshot.testing import World

EVALUATE = """
name: evaluate
on: {alias-added: {alias: candidate}}
steps:
  - id: evaluate
    uses: launch
    with:
      image: evaluate:1
      env: {TOKEN: "Bearer {{ secrets.HF_TOKEN }}", MODEL: "{{ version.reference }}"}
  - id: gate
    uses: require
    with: {that: steps.evaluate.outputs.accuracy > 0.9, otherwise: "accuracy is {{ steps.evaluate.outputs.accuracy }}"}
  - uses: webhook
    with: {url: https://deploy.example.com/hook, json: {accuracy: "{{= steps.evaluate.outputs.accuracy }}"}}
on-failure:
  - uses: webhook
    with: {url: https://alarm.example.com/hook, json: {why: "{{ failure.reason }}"}}
"""


@pytest.fixture
def world() -> World:
    world = World(secrets={"HF_TOKEN": "hf-secret"})
    world.apply(EVALUATE)
    world.link(alias="candidate")
    world.settle()
    return world


def test_the_execution_waits_for_the_job_and_nothing_is_due(world):
    """No worker holds it, no sweep finds it, however much time passes."""
    execution, (job,) = world.execution(), world.all_jobs()
    assert (execution.state, execution.due_at, execution.lease_owner) == (ExecutionState.WAITING, None, None)
    assert job.state is JobState.QUEUED
    assert job.execution == execution.id
    assert execution.steps[0].job == job.id

    world.clock.advance(86_400)
    world.settle()

    assert world.execution() == execution
    assert world.all_jobs() == (job,)


def test_its_outputs_are_what_later_steps_read(world):
    """`steps.ID.outputs` is what the job wrote; one receipt tells of it."""
    world.finish_job(outputs={"accuracy": 0.95})
    world.settle()

    execution = world.execution()
    assert execution.state is ExecutionState.SUCCEEDED
    assert [post.json for post in world.sent] == [{"accuracy": 0.95}]
    receipt = world.receipts(execution)[0]
    assert (receipt.step, receipt.number, receipt.state) == ("evaluate", 1, AttemptState.SUCCEEDED)
    assert receipt.request["image"] == "evaluate:1"


def test_what_is_kept_of_a_job_names_its_secrets_and_holds_none(world):
    """Neither the job nor the receipt; the value is filled in where the job starts."""
    world.finish_job(outputs={"accuracy": 0.95})
    world.settle()

    execution, (job,) = world.execution(), world.all_jobs()
    assert job.secrets == ("HF_TOKEN",)
    assert "hf-secret" not in f"{job}{execution}{world.receipts(execution)}"
    assert world.receipts(execution)[0].request["env"] == {
        "TOKEN": "Bearer {{ secrets.HF_TOKEN }}",
        "MODEL": "model/churn:v0",
    }


def test_a_job_that_fails_fails_the_step_and_on_failure_runs(world):
    """Its cause is the reason; nobody tries the step again."""
    world.finish_job(exit_code=3)
    world.settle()
    world.clock.advance(86_400)
    world.settle()

    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert "exit code 3" in execution.reason
    assert [post.url for post in world.sent] == ["https://alarm.example.com/hook"]
    assert world.receipts(execution)[0].state is AttemptState.FAILED


def test_a_person_who_retries_gets_another_job(world):
    """With a name of its own; the old one stays as it ended."""
    world.finish_job(failure=FailureKind.OUT_OF_MEMORY, reason="it ran out of memory")
    world.settle()
    world.retry(world.execution().id)
    world.settle()

    world.finish_job(outputs={"accuracy": 0.99})
    world.settle()

    assert world.execution().state is ExecutionState.SUCCEEDED
    assert sorted(job.state.value for job in world.all_jobs()) == ["failed", "succeeded"]


def test_cancelling_the_execution_asks_its_job_to_stop(world):
    """The job does not outlive what it was for."""
    world.cancel(world.execution().id)

    (job,) = world.all_jobs()
    assert job.stop_requested_by == "the end of its execution"


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("{{ secrets.HF_TOKEN | upper }}", id="a filter"),
        pytest.param("{{ 'yes' if secrets.HF_TOKEN else 'no' }}", id="a test"),
    ],
)
def test_a_template_that_needs_the_secret_itself_is_told_that_it_cannot_have_it(template):
    """A job's secret is filled in later; to go on with its mark would go wrong silently."""
    world = World(secrets={"HF_TOKEN": "hf-secret"})
    world.apply(EVALUATE.replace("Bearer {{ secrets.HF_TOKEN }}", template))
    world.link(alias="candidate")
    world.settle()

    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert "secrets.HF_TOKEN" in execution.reason
    assert world.all_jobs() == ()


def test_an_event_cannot_pretend_to_be_a_secret(world):
    """Text that looks like a mark stays text: nobody knows the nonce before the job is made."""
    (job,) = world.all_jobs()
    forged = World(secrets={"HF_TOKEN": "hf-secret"})
    forged.apply(EVALUATE.replace("{{ version.reference }}", "{{ event.subject }}"))
    mark = f"⟦Secret:{job.nonce}:HF_TOKEN⟧"
    forged.link(mark.replace(":", "-"), alias="candidate")
    forged.settle()

    (other,) = forged.all_jobs()
    assert other.nonce != job.nonce
    assert other.secrets == ("HF_TOKEN",)
    assert "hf-secret" not in repr(other)


def test_other_automations_answer_what_becomes_of_a_job():
    """`job-failed` fires automations like any other event, filtered by the job's name."""
    world = World(secrets={"HF_TOKEN": "x"})
    world.apply(EVALUATE)
    world.apply(
        "name: tell\non: {job-failed: {job: evaluate, collection: churn}}\nsteps:\n  - uses: webhook\n"
        '    with: {url: https://chat.example.com, json: {job: "{{ job.name }}", code: "{{= job.exit_code }}"}}\n'
    )
    world.link(alias="candidate")
    world.settle()

    world.finish_job(exit_code=3)
    world.settle()

    assert {"job": "evaluate", "code": 3} in [post.json for post in world.sent]
