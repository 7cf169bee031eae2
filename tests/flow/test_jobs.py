"""A step that waits for a job. No worker holds the execution, which continues with the outputs of the job."""

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
    """Return a world whose execution waits for a job."""
    world = World(secrets={"HF_TOKEN": "hf-secret"})
    world.apply(EVALUATE)
    world.link(alias="candidate")
    world.run_until_idle()
    return world


def test_the_execution_waits_for_its_job_without_a_due_time(world):
    """No worker holds it, and no sweep finds it, however much time passes."""
    execution, (job,) = world.execution(), world.all_jobs()
    assert (execution.state, execution.due_at, execution.lease_owner_id) == (ExecutionState.WAITING, None, None)
    assert job.state is JobState.QUEUED
    assert job.execution_id == execution.id
    assert execution.steps[0].job_id == job.id

    world.clock.advance(86_400)
    world.run_until_idle()

    assert world.execution() == execution
    assert world.all_jobs() == (job,)


def test_later_steps_read_the_outputs_of_a_job(world):
    """`steps.ID.outputs` has the outputs of the job, and the step has one receipt."""
    world.finish_job(outputs={"accuracy": 0.95})
    world.run_until_idle()

    execution = world.execution()
    assert execution.state is ExecutionState.SUCCEEDED
    assert [request.json for request in world.sent] == [{"accuracy": 0.95}]
    receipt = world.receipts(execution)[0]
    assert (receipt.step_id, receipt.attempt, receipt.state) == ("evaluate", 1, AttemptState.SUCCEEDED)
    assert receipt.request["image"] == "evaluate:1"


def test_no_stored_record_of_a_job_has_the_value_of_a_secret(world):
    """The job and the receipt name the secret. The value is filled in when the job starts."""
    world.finish_job(outputs={"accuracy": 0.95})
    world.run_until_idle()

    execution, (job,) = world.execution(), world.all_jobs()
    assert job.secrets == ("HF_TOKEN",)
    assert "hf-secret" not in f"{job}{execution}{world.receipts(execution)}"
    assert world.receipts(execution)[0].request["env"] == {
        "TOKEN": "Bearer {{ secrets.HF_TOKEN }}",
        "MODEL": "model/churn:v0",
    }


def test_a_failed_job_fails_its_step(world):
    """The reason names the exit code, the on-failure steps run, and the step is not attempted again."""
    world.finish_job(exit_code=3)
    world.run_until_idle()
    world.clock.advance(86_400)
    world.run_until_idle()

    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert "exit code 3" in execution.reason
    assert [request.url for request in world.sent] == ["https://alarm.example.com/hook"]
    assert world.receipts(execution)[0].state is AttemptState.FAILED


def test_a_retry_by_a_user_creates_another_job(world):
    """The new job has its own id, and the old job keeps its state."""
    world.finish_job(failure=FailureKind.OUT_OF_MEMORY, reason="it ran out of memory")
    world.run_until_idle()
    world.retry(world.execution().id)
    world.run_until_idle()

    world.finish_job(outputs={"accuracy": 0.99})
    world.run_until_idle()

    assert world.execution().state is ExecutionState.SUCCEEDED
    assert sorted(job.state.value for job in world.all_jobs()) == ["failed", "succeeded"]


def test_cancelling_an_execution_stops_its_job(world):
    """The job gets a stop request."""
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
def test_a_template_cannot_use_the_value_of_a_secret_of_a_job(template):
    """The value is filled in later. To continue with its placeholder would fail silently."""
    world = World(secrets={"HF_TOKEN": "hf-secret"})
    world.apply(EVALUATE.replace("Bearer {{ secrets.HF_TOKEN }}", template))
    world.link(alias="candidate")
    world.run_until_idle()

    execution = world.execution()
    assert execution.state is ExecutionState.FAILED
    assert "secrets.HF_TOKEN" in execution.reason
    assert world.all_jobs() == ()


def test_an_event_cannot_contain_a_valid_secret_placeholder(world):
    """Text that looks like a placeholder stays text, because nobody knows the nonce before the job is created."""
    (job,) = world.all_jobs()
    forged = World(secrets={"HF_TOKEN": "hf-secret"})
    forged.apply(EVALUATE.replace("{{ version.reference }}", "{{ event.subject }}"))
    placeholder = f"⟦Secret:{job.nonce}:HF_TOKEN⟧"
    forged.link(placeholder.replace(":", "-"), alias="candidate")
    forged.run_until_idle()

    (other,) = forged.all_jobs()
    assert other.nonce != job.nonce
    assert other.secrets == ("HF_TOKEN",)
    assert "hf-secret" not in repr(other)


def test_other_automations_answer_the_events_of_a_job():
    """An automation can answer `job-failed`, filtered by the name of the job."""
    world = World(secrets={"HF_TOKEN": "x"})
    world.apply(EVALUATE)
    world.apply(
        "name: notify\non: {job-failed: {job: evaluate, collection: churn}}\nsteps:\n  - uses: webhook\n"
        '    with: {url: https://chat.example.com, json: {job: "{{ job.name }}", code: "{{= job.exit_code }}"}}\n'
    )
    world.link(alias="candidate")
    world.run_until_idle()

    world.finish_job(exit_code=3)
    world.run_until_idle()

    assert {"job": "evaluate", "code": 3} in [request.json for request in world.sent]
