"""State transitions of an execution."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from upshot.domain.automation import Automation, Step, Trigger
from upshot.domain.event import EventKind
from upshot.domain.execution import Execution, ExecutionState
from upshot.errors import Conflict
from upshot.execution import transitions
from upshot.ids import EventId, ExecutionId, JobId, RevisionId, WorkerId

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def automation(steps=("one", "two"), on_failure=()):
    def make_steps(names):
        return tuple(Step(id=name, uses="webhook", with_={}) for name in names)

    return Automation(
        name="promote",
        revision_id=RevisionId("r1"),
        path="promote.yaml",
        line=1,
        triggers=(Trigger(EventKind.ALIAS_ADDED),),
        steps=make_steps(steps),
        on_failure=make_steps(on_failure),
    )


def started(**kwargs) -> Execution:
    return transitions.admit(
        ExecutionId("exe_1"),
        automation(**kwargs),
        EventId("evt_1"),
        now=NOW,
        worker_id=WorkerId("w1"),
        until=NOW + timedelta(seconds=30),
    )


def succeed(execution: Execution, **outputs) -> Execution:
    record = transitions.next_step(execution)
    assert record is not None
    return transitions.step_succeeded(execution, record, outputs=outputs, started_at=NOW, now=NOW)


def fail(execution: Execution, *, continue_on_error=False) -> Execution:
    record = transitions.next_step(execution)
    assert record is not None
    return transitions.step_failed(
        execution, record, reason="404", continue_on_error=continue_on_error, started_at=NOW, now=NOW
    )


def states(execution: Execution) -> list[str]:
    return [f"{step.id}={step.state.value}" for step in execution.steps]


def test_steps_run_in_order_and_the_last_one_ends_the_execution():
    """Each step starts after the previous one, and its outputs are stored."""
    execution = succeed(started(), status=200)
    assert transitions.next_step(execution).id == "two"
    assert execution.state is ExecutionState.RUNNING
    execution = succeed(execution)
    assert execution.state is ExecutionState.SUCCEEDED
    assert execution.finished_at == NOW
    assert execution.lease_owner_id is None
    assert execution.steps[0].outputs == {"status": 200}


def test_a_failed_step_fails_the_execution():
    """The remaining steps are skipped, and the reason names the failed step."""
    execution = fail(started())
    assert execution.state is ExecutionState.FAILED
    assert execution.reason == "step one: 404"
    assert states(execution) == ["one=failed", "two=skipped"]


def test_continue_on_error_continues_with_the_next_step():
    """The failed step does not fail the execution."""
    execution = succeed(fail(started(), continue_on_error=True))
    assert execution.state is ExecutionState.SUCCEEDED
    assert states(execution) == ["one=failed", "two=succeeded"]


def test_on_failure_steps_run_only_after_a_failure():
    """They are skipped if every step succeeded. After a failed step they all run."""
    succeeded = succeed(succeed(started(on_failure=("notify",))))
    assert states(succeeded) == ["one=succeeded", "two=succeeded", "notify=skipped"]

    failed = fail(started(on_failure=("notify", "log")))
    assert failed.state is ExecutionState.RUNNING
    assert transitions.next_step(failed).id == "notify"
    failed = succeed(fail(failed))
    assert failed.state is ExecutionState.FAILED
    assert failed.reason == "step one: 404"
    assert states(failed) == ["one=failed", "two=skipped", "notify=failed", "log=succeeded"]


def test_a_retry_by_a_user_continues_from_the_failed_step():
    """Steps that succeeded are kept. Failed and skipped steps, and on-failure steps, run again."""
    failed = succeed(fail(succeed(started(steps=("one", "two", "three"), on_failure=("notify",)))))
    retried = transitions.retry_by_user(failed, NOW)
    assert retried.state is ExecutionState.WAITING
    assert retried.due_at == NOW
    assert states(retried) == ["one=succeeded", "two=waiting", "three=waiting", "notify=waiting"]
    assert retried.steps[1].attempt_count == 1
    assert retried.steps[1].failures == 0


def test_an_execution_that_never_started_is_retried_from_its_first_step():
    """After an `if` that failed on the event, every step runs."""
    stopped = transitions.admit_final(
        ExecutionId("exe_1"),
        automation(),
        EventId("evt_1"),
        now=NOW,
        state=ExecutionState.FAILED,
        reason="if: 'x' is undefined",
    )
    assert states(transitions.retry_by_user(stopped, NOW)) == ["one=waiting", "two=waiting"]


@pytest.mark.parametrize("make", [started, lambda: succeed(succeed(started()))], ids=["running", "succeeded"])
def test_only_a_failed_or_cancelled_execution_can_be_retried(make):
    """In any other state a retry is a conflict, and the error names the state."""
    execution = make()
    with pytest.raises(Conflict, match=f"is {execution.state.value}"):
        transitions.retry_by_user(execution, NOW)


def test_a_user_can_cancel_an_execution_that_has_not_ended():
    """Finished steps keep their state. A final execution cannot be cancelled."""
    cancelled = transitions.cancel_by_user(succeed(started()), NOW, "ann")
    assert cancelled.state is ExecutionState.CANCELLED
    assert cancelled.reason == "cancelled by ann"
    assert states(cancelled) == ["one=succeeded", "two=cancelled"]
    with pytest.raises(Conflict, match="cannot be cancelled"):
        transitions.cancel_by_user(cancelled, NOW, "ann")
    assert states(transitions.retry_by_user(cancelled, NOW)) == ["one=succeeded", "two=waiting"]


def test_a_lost_lease_counts_as_an_attempt_but_not_as_a_failure():
    """A dead worker does not use up the attempts of the retry policy."""
    execution, lost = transitions.lease_lost(started(), worker_id=WorkerId("w1"), now=NOW)
    assert lost.attempt_count == 0
    assert (execution.steps[0].attempt_count, execution.steps[0].failures, execution.steps[0].losses) == (1, 0, 1)
    assert transitions.next_step(execution).id == "one"


def test_a_step_fails_after_too_many_lost_workers():
    """The execution fails, and its reason says how many workers were lost."""
    execution = started()
    for _ in range(transitions.MAX_LOSSES):
        assert execution.state is ExecutionState.RUNNING
        execution, _lost = transitions.lease_lost(execution, worker_id=WorkerId("w9"), now=NOW)
    assert execution.state is ExecutionState.FAILED
    assert "5 workers were lost" in execution.reason


def test_a_waiting_execution_has_no_lease():
    """Between two attempts no worker holds the execution."""
    execution = started()
    step = transitions.next_step(execution)
    assert step is not None

    waiting = transitions.schedule_retry(execution, step, reason="503", wait_seconds=4, started_at=NOW, now=NOW)

    assert waiting.state is ExecutionState.WAITING
    assert waiting.due_at == NOW + timedelta(seconds=4)
    assert waiting.lease_owner_id is None
    assert waiting.fence == execution.fence


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda execution: transitions.cancel_by_user(execution, NOW, "ada"), id="cancelled"),
        pytest.param(
            lambda execution: transitions.fail_without_attempt(execution, reason="no action", now=NOW),
            id="its action is not installed",
        ),
    ],
)
def test_a_retried_step_gets_a_new_attempt_after_its_job_was_stopped(end):
    """A job id derives from the number of the attempt. With the same number the retry would get the stopped job."""
    execution = started()
    deferred = transitions.step_deferred(
        execution, execution.steps[0], job_id=JobId("job_1"), reason="waits", started_at=NOW
    )

    retried = transitions.retry_by_user(end(deferred), NOW).steps[0]

    assert (retried.id, retried.job_id, retried.attempt_count) == ("one", None, 1)


def test_a_skipped_step_has_a_reason():
    """A step is skipped if its `if` is false. An execution whose steps are all skipped succeeds."""
    execution = started(steps=("one",))
    skipped = transitions.step_skipped(execution, execution.steps[0], reason="if: false", now=NOW)
    assert skipped.state is ExecutionState.SUCCEEDED
    assert skipped.steps[0] == replace(
        execution.steps[0], state=ExecutionState.SKIPPED, reason="if: false", finished_at=NOW
    )


def test_an_overtaken_step_is_skipped_with_those_after_it_except_those_that_are_sent():
    """The execution continues with the steps that ignore overtaking, and then it is skipped."""
    execution = started(steps=("one", "two", "three"))
    first, second, third = execution.steps
    execution = replace(execution, steps=(first, replace(second, ignores_overtaking=True), third))

    sending = transitions.step_overtaken(execution, first, by=ExecutionId("exe_9"), now=NOW)

    assert states(sending) == ["one=skipped", "two=waiting", "three=skipped"]
    assert sending.state is ExecutionState.RUNNING
    with pytest.raises(Conflict):
        transitions.retry_by_user(sending, NOW)
    ended = succeed(sending)
    assert (ended.state, ended.reason, ended.finished_at) == (ExecutionState.SKIPPED, "overtaken by exe_9", NOW)
    forced = transitions.retry_by_user(ended, NOW, force=True)
    assert transitions.next_step(forced).id == "one"
    assert all(step.ignores_overtaking for step in forced.steps)
