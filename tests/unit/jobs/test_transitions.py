"""How an attempt ended, and whether the job is attempted again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.job_records import make_job
from upshot.backends.protocol import ContainerStatus, Phase
from upshot.domain.job import FailureKind, JobRetryPolicy, JobSpec, JobState
from upshot.ids import WorkerId
from upshot.jobs.transitions import JobOutcome, classify_exit, end_attempt, finish, next_attempt

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOB = make_job(
    "job_0000000001abcdefghjkmnpqrs",
    START,
    due_at=None,
    spec=JobSpec(image="evaluate:1", timeout_seconds=60, memory_bytes=64 * 2**20),
    state=JobState.RUNNING,
    started_at=START,
)


def exited(exit_code: int | None = 0, *, after_seconds: float = 10, **fields: Any) -> ContainerStatus:
    """Return the status of an exited container."""
    return replace(
        ContainerStatus(
            name=JOB.container_name,
            job_id=JOB.id,
            phase=Phase.EXITED,
            handle="c1",
            started_at=START,
            finished_at=START + timedelta(seconds=after_seconds),
            exit_code=exit_code,
        ),
        **fields,
    )


@pytest.mark.parametrize(
    ("status", "away", "failure", "words"),
    [
        pytest.param(exited(0), False, None, None, id="success"),
        pytest.param(exited(0), True, None, None, id="success during an outage"),
        pytest.param(exited(3), False, FailureKind.EXITED, "exit code 3", id="exit code"),
        pytest.param(exited(139), False, FailureKind.EXITED, "SIGSEGV", id="crash"),
        pytest.param(exited(137), False, FailureKind.EXITED, "SIGKILL", id="killed"),
        pytest.param(exited(137), True, FailureKind.ENGINE_LOST, "engine stopped", id="killed by its engine"),
        pytest.param(exited(3), True, FailureKind.EXITED, "exit code 3", id="exit code during an outage"),
        pytest.param(exited(None), True, FailureKind.ENGINE_LOST, "engine stopped", id="lost with its engine"),
        pytest.param(
            exited(137, failure=FailureKind.OUT_OF_MEMORY), False, FailureKind.OUT_OF_MEMORY, "64 MiB", id="memory"
        ),
        pytest.param(exited(0, after_seconds=62), False, FailureKind.TIMED_OUT, "60 s", id="too late"),
        pytest.param(exited(137, after_seconds=62), True, FailureKind.TIMED_OUT, "60 s", id="too late and killed"),
        pytest.param(exited(0, after_seconds=60.5), False, None, None, id="within the tolerance of clocks"),
    ],
)
def test_how_an_attempt_ended(status, away, failure, words):
    """The exit code, the failure, the times and an outage of the engine decide together."""
    outcome = classify_exit(JOB, status, engine_was_away=away)

    assert outcome.failure == failure
    assert (words or "") in (outcome.reason or "")


def test_a_stopped_job_ends_for_the_reason_it_was_stopped_for():
    """The exit code does not matter, even if it is 0."""
    stopping = replace(JOB, state=JobState.STOPPING)
    cancelled = replace(stopping, failure=FailureKind.CANCELLED, reason="cancelled by ann")
    timed_out = replace(stopping, failure=FailureKind.TIMED_OUT)

    outcome = classify_exit(cancelled, exited(0), engine_was_away=False)
    late = classify_exit(timed_out, exited(143, after_seconds=60.2), engine_was_away=False)

    assert outcome == JobOutcome(FailureKind.CANCELLED, "cancelled by ann")
    assert late.failure is FailureKind.TIMED_OUT


@pytest.mark.parametrize("failure", list(FailureKind))
def test_only_retryable_failures_are_attempted_again(failure):
    """A lost engine, an eviction and a failed download are retryable. The job's own failures are not."""
    retryable = {FailureKind.ENGINE_LOST, FailureKind.EVICTED, FailureKind.INPUT_UNAVAILABLE}
    after = end_attempt(JOB, JobOutcome(failure, "reason"), larger_spec=None, now=START)

    assert (after.state is JobState.QUEUED) == (failure in retryable)


def test_the_next_attempt_is_another_container_after_a_wait():
    """It has a new number, a new name and a due time, and nothing of the old attempt."""
    job = replace(
        JOB, engine_id="docker:1", machine="a", handle="c1", retry=JobRetryPolicy(max_attempts=3, first_seconds=4)
    )

    after = next_attempt(job, JobOutcome(FailureKind.EVICTED, "evicted"), larger_spec=None, now=START, jitter=1.0)

    assert after.state is JobState.QUEUED
    assert after.attempt == 2
    assert after.container_name != job.container_name
    assert after.due_at == START + timedelta(seconds=4)
    assert (after.engine_id, after.machine, after.handle, after.started_at) == (None, None, None, None)
    assert "attempt 1 of 3" in after.reason


def test_the_last_attempt_is_final():
    """The retry policy limits the number of attempts."""
    job = replace(JOB, attempt=3, retry=JobRetryPolicy(max_attempts=3))

    assert next_attempt(job, JobOutcome(FailureKind.ENGINE_LOST, "gone"), larger_spec=None, now=START) is None


def test_out_of_memory_is_attempted_again_only_with_more_memory():
    """With the same memory it would end the same way."""
    outcome = JobOutcome(FailureKind.OUT_OF_MEMORY, "out of memory")
    larger_spec = replace(JOB.spec, memory_bytes=128 * 2**20)

    assert next_attempt(JOB, outcome, larger_spec=None, now=START) is None
    assert next_attempt(JOB, outcome, larger_spec=larger_spec, now=START).spec == larger_spec


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        pytest.param(None, JobState.SUCCEEDED, id="success"),
        pytest.param(FailureKind.CANCELLED, JobState.CANCELLED, id="cancelled"),
        pytest.param(FailureKind.TIMED_OUT, JobState.FAILED, id="failed"),
    ],
)
def test_a_finished_job_has_no_lease(failure, state):
    """It is final, and has the time at which it ended."""
    leased = replace(JOB, lease_owner_id=WorkerId("w1"), lease_until=START)

    after = finish(leased, JobOutcome(failure, "reason"), now=START)

    assert (after.state, after.failure, after.finished_at, after.lease_owner_id) == (state, failure, START, None)
