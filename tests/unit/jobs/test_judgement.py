"""How a try ended, and whether there is another."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from upshot.backends.protocol import ContainerStatus, Phase
from upshot.domain.job import FailureKind, Job, JobRetryPolicy, JobSpec, JobState
from upshot.jobs.transitions import JobOutcome, classify_exit, finish, next_attempt

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOB = Job(
    id="job_0000000001abcdefghjkmnpqrs",
    name="evaluate",
    automation="evaluate-candidate",
    execution_id="exe_1",
    step_id="evaluate",
    event_id="evt_1",
    delivery_id="dlv_1",
    queue="default",
    backend="docker",
    spec=JobSpec(image="evaluate:1", timeout_seconds=60, memory_bytes=64 * 2**20),
    created_at=START,
    state=JobState.RUNNING,
    started_at=START,
)


def ended(code: int | None = 0, *, after: float = 10, **known: Any) -> ContainerStatus:
    return replace(
        ContainerStatus(
            name=JOB.container,
            job_id=JOB.id,
            phase=Phase.EXITED,
            handle="c1",
            started_at=START,
            finished_at=START + timedelta(seconds=after),
            exit_code=code,
        ),
        **known,
    )


@pytest.mark.parametrize(
    ("sighting", "away", "cause", "words"),
    [
        pytest.param(ended(0), False, None, None, id="well"),
        pytest.param(ended(0), True, None, None, id="well, though the engine was away"),
        pytest.param(ended(3), False, FailureKind.EXITED, "exit code 3", id="by itself"),
        pytest.param(ended(139), False, FailureKind.EXITED, "SIGSEGV", id="by a signal of its own"),
        pytest.param(ended(137), False, FailureKind.EXITED, "SIGKILL", id="killed by somebody"),
        pytest.param(ended(137), True, FailureKind.ENGINE_LOST, "engine stopped", id="killed with its engine"),
        pytest.param(ended(3), True, FailureKind.EXITED, "exit code 3", id="its own failure while the engine was away"),
        pytest.param(ended(None), True, FailureKind.ENGINE_LOST, "engine stopped", id="lost with its engine"),
        pytest.param(
            ended(137, failure=FailureKind.OUT_OF_MEMORY), False, FailureKind.OUT_OF_MEMORY, "64 MiB", id="memory"
        ),
        pytest.param(ended(0, after=62), False, FailureKind.TIMED_OUT, "60 s", id="too long, while nobody watched"),
        pytest.param(ended(137, after=62), True, FailureKind.TIMED_OUT, "60 s", id="too long, whoever ended it"),
        pytest.param(ended(0, after=60.5), False, None, None, id="in time, by the engine's clock"),
    ],
)
def test_the_engine_says_how_a_try_ended(sighting, away, cause, words):
    """Code, cause, times and the engine's absence together say why."""
    end = classify_exit(JOB, sighting, engine_was_away=away)

    assert end.failure == cause
    assert (words or "") in (end.reason or "")


def test_a_job_that_was_stopped_ended_for_the_reason_that_it_was_stopped_for():
    """Whatever exit code it had then, and though it says 0."""
    stopping = replace(JOB, state=JobState.STOPPING)
    cancelled = replace(stopping, failure=FailureKind.CANCELLED, reason="cancelled by ann")

    assert classify_exit(cancelled, ended(0), engine_was_away=False) == JobOutcome(
        FailureKind.CANCELLED, "cancelled by ann"
    )
    assert classify_exit(
        replace(stopping, failure=FailureKind.TIMED_OUT), ended(143, after=60.2), engine_was_away=False
    ).failure is (FailureKind.TIMED_OUT)


@pytest.mark.parametrize("cause", list(FailureKind))
def test_only_what_is_worth_it_is_tried_again(cause):
    """A lost engine and an eviction are; the job's own failures are not."""
    again = next_attempt(JOB, JobOutcome(cause, "so"), grown=None, now=START)

    assert (again is not None) == (cause in (FailureKind.ENGINE_LOST, FailureKind.EVICTED))


def test_another_try_is_another_container_that_waits_a_while():
    """Its number, its name and its time are new; what the old try had is forgotten."""
    job = replace(
        JOB, engine_id="docker:1", machine="a", handle="c1", retry=JobRetryPolicy(max_attempts=3, first_seconds=4)
    )

    again = next_attempt(job, JobOutcome(FailureKind.EVICTED, "evicted"), grown=None, now=START, chance=1.0)

    assert again.state is JobState.QUEUED
    assert again.attempt == 2
    assert again.container != job.container
    assert again.due_at == START + timedelta(seconds=4)
    assert (again.engine_id, again.machine, again.handle, again.started_at) == (None, None, None, None)
    assert "try 1 of 3" in again.reason


def test_tries_end():
    """The last one is final."""
    job = replace(JOB, attempt=3, retry=JobRetryPolicy(max_attempts=3))

    assert next_attempt(job, JobOutcome(FailureKind.ENGINE_LOST, "gone"), grown=None, now=START) is None


def test_out_of_memory_is_tried_again_with_more_where_more_is_to_be_had():
    """Without more memory it would end the same way."""
    end = JobOutcome(FailureKind.OUT_OF_MEMORY, "too little")
    more = replace(JOB.spec, memory_bytes=128 * 2**20)

    assert next_attempt(JOB, end, grown=None, now=START) is None
    assert next_attempt(JOB, end, grown=more, now=START).spec == more


@pytest.mark.parametrize(
    ("cause", "state"),
    [
        pytest.param(None, JobState.SUCCEEDED, id="well"),
        pytest.param(FailureKind.CANCELLED, JobState.CANCELLED, id="cancelled"),
        pytest.param(FailureKind.TIMED_OUT, JobState.FAILED, id="failed"),
    ],
)
def test_an_end_is_a_state_that_nobody_holds(cause, state):
    """Final, with its time, and without a lease."""
    held = replace(JOB, lease_owner="w1", lease_until=START)

    after = finish(held, JobOutcome(cause, "so"), now=START)

    assert (after.state, after.failure, after.finished_at, after.lease_owner) == (state, cause, START, None)
