"""How an execution moves on."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from upshot.domain.automation import Automation, Step, Trigger
from upshot.domain.event import EventKind
from upshot.domain.execution import Execution, ExecutionState
from upshot.errors import Conflict
from upshot.execution import transitions

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def automation(steps=("one", "two"), on_failure=()):
    def made(names):
        return tuple(Step(id=name, uses="webhook", with_={}) for name in names)

    return Automation(
        name="promote",
        revision="r1",
        path="promote.yaml",
        line=1,
        triggers=(Trigger(EventKind.ALIAS_ADDED),),
        steps=made(steps),
        on_failure=made(on_failure),
    )


def begun(**kwargs) -> Execution:
    return transitions.admit(
        "exe_1", automation(**kwargs), "evt_1", now=NOW, owner="w1", until=NOW + timedelta(seconds=30)
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


def test_steps_run_in_order_and_the_last_ends_it():
    """One after the other; outputs are kept."""
    execution = succeed(begun(), status=200)
    assert transitions.next_step(execution).id == "two"
    assert execution.state is ExecutionState.RUNNING
    execution = succeed(execution)
    assert execution.state is ExecutionState.SUCCEEDED
    assert execution.finished_at == NOW
    assert execution.lease_owner is None
    assert execution.steps[0].outputs == {"status": 200}


def test_a_failed_step_ends_it_and_says_so():
    """The rest is skipped, and the reason names the step."""
    execution = fail(begun())
    assert execution.state is ExecutionState.FAILED
    assert execution.reason == "step one: 404"
    assert states(execution) == ["one=failed", "two=skipped"]


def test_continue_on_error_goes_on():
    """A step that may fail does not fail the execution."""
    execution = succeed(fail(begun(), continue_on_error=True))
    assert execution.state is ExecutionState.SUCCEEDED
    assert states(execution) == ["one=failed", "two=succeeded"]


def test_on_failure_steps_run_only_after_a_failure():
    """They are skipped when all went well, and run, each of them, when a step gave up."""
    well = succeed(succeed(begun(on_failure=("tell",))))
    assert states(well) == ["one=succeeded", "two=succeeded", "tell=skipped"]

    badly = fail(begun(on_failure=("tell", "log")))
    assert badly.state is ExecutionState.RUNNING
    assert transitions.next_step(badly).id == "tell"
    badly = succeed(fail(badly))
    assert badly.state is ExecutionState.FAILED
    assert badly.reason == "step one: 404"
    assert states(badly) == ["one=failed", "two=skipped", "tell=failed", "log=succeeded"]


def test_a_person_retries_from_the_failed_step():
    """What succeeded stays, what failed or was not reached is due again, on-failure steps included."""
    failed = succeed(fail(succeed(begun(steps=("one", "two", "three"), on_failure=("tell",)))))
    again = transitions.retry_by_person(failed, NOW)
    assert again.state is ExecutionState.WAITING
    assert again.due_at == NOW
    assert states(again) == ["one=succeeded", "two=waiting", "three=waiting", "tell=waiting"]
    assert again.steps[1].attempts == 1
    assert again.steps[1].failures == 0


def test_an_execution_that_never_began_is_retried_from_its_first_step():
    """An `if` that failed on the event leaves every step to do."""
    stopped = transitions.admit_final(
        "exe_1", automation(), "evt_1", now=NOW, state=ExecutionState.FAILED, reason="if: 'x' is undefined"
    )
    assert states(transitions.retry_by_person(stopped, NOW)) == ["one=waiting", "two=waiting"]


@pytest.mark.parametrize("make", [begun, lambda: succeed(succeed(begun()))], ids=["running", "succeeded"])
def test_only_what_failed_or_was_cancelled_can_be_retried(make):
    """Any other state is a conflict that says which state it is."""
    execution = make()
    with pytest.raises(Conflict, match=f"is {execution.state.value}"):
        transitions.retry_by_person(execution, NOW)


def test_a_person_cancels_what_has_not_ended():
    """Done steps stay done; a final execution cannot be cancelled."""
    cancelled = transitions.cancel_by_person(succeed(begun()), NOW, "ann")
    assert cancelled.state is ExecutionState.CANCELLED
    assert cancelled.reason == "cancelled by ann"
    assert states(cancelled) == ["one=succeeded", "two=cancelled"]
    with pytest.raises(Conflict, match="cannot be cancelled"):
        transitions.cancel_by_person(cancelled, NOW, "ann")
    assert states(transitions.retry_by_person(cancelled, NOW)) == ["one=succeeded", "two=waiting"]


def test_a_lost_lease_counts_an_ambiguous_attempt_but_no_failure():
    """A dead worker does not use up the retry policy."""
    execution, lost = transitions.lease_lost(begun(), worker="w1", now=NOW)
    assert lost.attempts == 0
    assert (execution.steps[0].attempts, execution.steps[0].failures, execution.steps[0].losses) == (1, 0, 1)
    assert transitions.next_step(execution).id == "one"


def test_a_step_that_takes_every_worker_down_is_given_up():
    """After the last allowed loss the execution fails and says why."""
    execution = begun()
    for _ in range(transitions.MAX_LOSSES):
        assert execution.state is ExecutionState.RUNNING
        execution, _lost = transitions.lease_lost(execution, worker="w9", now=NOW)
    assert execution.state is ExecutionState.FAILED
    assert "5 workers were lost" in execution.reason


def test_waiting_gives_the_lease_back():
    """Between attempts nobody holds the execution."""
    execution = begun()
    step = transitions.next_step(execution)
    assert step is not None

    waiting = transitions.step_waits(execution, step, reason="503", wait_seconds=4, started_at=NOW, now=NOW)

    assert waiting.state is ExecutionState.WAITING
    assert waiting.due_at == NOW + timedelta(seconds=4)
    assert waiting.lease_owner is None
    assert waiting.fence == execution.fence


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda one: transitions.cancel_by_person(one, NOW, "ada"), id="cancelled"),
        pytest.param(
            lambda one: transitions.fail_without_attempt(one, reason="gone", now=NOW), id="its action is gone"
        ),
    ],
)
def test_a_retried_step_whose_job_ended_with_its_execution_is_another_attempt(end):
    """A job is named after its attempt: the same number again would give the retry the job that was stopped."""
    execution = begun()
    held = transitions.step_held(execution, execution.steps[0], job="job_1", reason="waits", started_at=NOW)

    again = transitions.retry_by_person(end(held), NOW).steps[0]

    assert (again.id, again.job_id, again.attempts) == ("one", None, 1)


def test_a_skipped_step_passes_the_turn_on():
    """A step whose `if` does not hold is skipped with its reason; all skipped is a success."""
    execution = begun(steps=("one",))
    skipped = transitions.step_skipped(execution, execution.steps[0], reason="if: false", now=NOW)
    assert skipped.state is ExecutionState.SUCCEEDED
    assert skipped.steps[0] == replace(
        execution.steps[0], state=ExecutionState.SKIPPED, reason="if: false", finished_at=NOW
    )
