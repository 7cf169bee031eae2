"""
How a job changes state: pure functions from one record of a job to the next.

                claim              container_running
    queued ───────────────► starting ───────────────► running
     ▲  │                    │    │ stop requested     │   │ stop requested, or timeout
     │  │                    │    └────► stopping ◄────┼───┘
     │  │                    │ start        │ exited,  │ exited,
     │  │                    │ refused      │ or gone  │ or gone
     │  │                    └──────────────┼──────────┘
     │  │ cancel_queued                     ▼
     │  └──────────► cancelled ◄──────── finish ────────► succeeded, failed
     └──────────────────────────────── next_attempt, if the failure is retryable

`classify_exit` decides how an attempt ended, and `end_attempt` what follows. Nothing leads out of succeeded,
failed and cancelled. Every function takes the current time; none reads a clock or asks an engine.
"""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from upshot.backends.protocol import ContainerStatus, StartedContainer
from upshot.domain.job import FailureKind, Job, JobSpec, JobState
from upshot.errors import Conflict
from upshot.ids import WorkerId
from upshot.ports.jobs import WorkerCapacity
from upshot.unicode_text import to_storable_text

_CLOCK_TOLERANCE = timedelta(seconds=1)  # between the engine's time of the exit and our deadline
_SIGNAL_BASE = 128  # shells and engines report a process that signal N ended as exit code 128 + N
#: Exit codes of a container that its engine took down: SIGKILL, SIGTERM, and Docker's code for "unknown".
_ENGINE_EXIT_CODES = frozenset({137, 143, 255, None})


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How an attempt ended."""

    failure: FailureKind | None  #: None: it succeeded, as far as the engine can tell
    reason: str | None


# --- claimed and supervised -----------------------------------------------------------------------


def claim(job: Job, capacity: WorkerCapacity, *, now: datetime, until: datetime) -> Job:
    """Lease a queued job to the worker that has this capacity."""
    return replace(
        job,
        state=JobState.STARTING,
        reason=None,
        due_at=None,
        machine=capacity.machine,
        engine_id=capacity.engine_ids[job.backend],
        lease_owner_id=capacity.worker_id,
        lease_until=until,
        seen_at=now,
        fence=job.fence + 1,
    )


def adopt(job: Job, worker_id: WorkerId, *, until: datetime) -> Job:
    """Lease an active job, whose lease has run out, to another worker. State and engine stay."""
    return replace(job, lease_owner_id=worker_id, lease_until=until, fence=job.fence + 1)


def container_created(job: Job, container: StartedContainer) -> Job:
    """Record that the engine has accepted the container. The job stays in STARTING until the container runs."""
    return replace(job, handle=container.handle, image_digest=container.image_digest, reason=container.note)


def container_running(job: Job, status: ContainerStatus, *, now: datetime) -> Job:
    """Record that the container runs."""
    return replace(
        job,
        state=JobState.RUNNING,
        reason=None,
        handle=status.handle,
        image_digest=job.image_digest or status.image_digest,
        started_at=status.started_at or now,
    )


def stopping(job: Job, outcome: JobOutcome) -> Job:
    """Record that the container gets a signal to stop, and why."""
    return replace(job, state=JobState.STOPPING, failure=outcome.failure, reason=outcome.reason)


# --- stopped on request ---------------------------------------------------------------------------


def with_stop_request(job: Job, requested_by: str, now: datetime) -> Job:
    """Record a request to stop. The first requester counts."""
    if job.stop_requested_at is not None:
        return job
    return replace(job, stop_requested_at=now, stop_requested_by=to_storable_text(requested_by))


def request_stop(job: Job, requested_by: str, now: datetime) -> Job:
    """
    Request that a job stops. A queued job is cancelled at once; a worker stops an active job.

    Raises:
        Conflict: The job has ended.
    """
    if job.state.is_final:
        raise Conflict(f"job {job.id} is {job.state.value} and cannot be stopped")
    job = with_stop_request(job, requested_by, now)
    return cancel_queued(job, now) if job.state is JobState.QUEUED else job


def cancel_queued(job: Job, now: datetime) -> Job:
    """Cancel a queued job that has a stop request."""
    return replace(
        job,
        state=JobState.CANCELLED,
        failure=FailureKind.CANCELLED,
        reason=f"cancelled by {job.stop_requested_by}",
        due_at=None,
        finished_at=now,
        fence=job.fence + 1,  # the write that queued the job for another attempt may still be under way
    )


# --- ended ----------------------------------------------------------------------------------------


def classify_exit(job: Job, status: ContainerStatus, *, engine_was_away: bool) -> JobOutcome:
    """
    Decide how an attempt ended. Its outputs are not checked yet.

    Args:
        job: The job as it is now. If it is STOPPING, its failure says why it was stopped.
        status: The status of the exited container.
        engine_was_away: Whether the engine was unreachable for a time since the job was last seen to run.
    """
    if job.failure is FailureKind.CANCELLED:
        return JobOutcome(FailureKind.CANCELLED, job.reason)
    if _ran_too_long(job, status) or status.failure is FailureKind.TIMED_OUT:
        seconds = job.spec.timeout_seconds
        return JobOutcome(FailureKind.TIMED_OUT, f"the job ran for longer than its timeout of {seconds:g} s")
    if status.failure is not None:
        return JobOutcome(status.failure, _describe_exit(job, status))
    if engine_was_away and status.exit_code in _ENGINE_EXIT_CODES:
        return JobOutcome(FailureKind.ENGINE_LOST, "the engine stopped while the job ran, and ended its container")
    if status.exit_code == 0:
        return JobOutcome(None, None)
    return JobOutcome(FailureKind.EXITED, _describe_exit(job, status))


def _ran_too_long(job: Job, status: ContainerStatus) -> bool:
    started_at = status.started_at or job.started_at
    if started_at is None:
        return job.failure is FailureKind.TIMED_OUT
    deadline = started_at + timedelta(seconds=job.spec.timeout_seconds)
    return (status.finished_at is not None and status.finished_at > deadline + _CLOCK_TOLERANCE) or (
        job.failure is FailureKind.TIMED_OUT and (status.finished_at is None or status.finished_at >= deadline)
    )


def _describe_exit(job: Job, status: ContainerStatus) -> str:
    note = f": {status.note}" if status.note else ""
    if status.failure is FailureKind.OUT_OF_MEMORY:
        limit = f" of {job.spec.memory_bytes / 2**20:g} MiB" if job.spec.memory_bytes else ""
        return f"the job used all of its memory{limit}; set a higher `resources.memory`{note}"
    if status.failure is not None:
        return f"{status.failure.value}{note}"
    if status.exit_code is None:
        return f"the job ended, and its engine does not know the exit code{note}"
    try:
        by_signal = f" ({signal.Signals(status.exit_code - _SIGNAL_BASE).name})"
    except ValueError:
        by_signal = ""
    return f"the job ended with exit code {status.exit_code}{by_signal}{note}"


def end_attempt(
    job: Job, outcome: JobOutcome, *, larger_spec: JobSpec | None, now: datetime, jitter: float | None = None
) -> Job:
    """
    End an attempt: queue the job for the next attempt if the failure is retryable, or finish it.

    Args:
        job: The job as it is now.
        outcome: How the attempt ended.
        larger_spec: The spec with more memory; None if the job does not ask for it, or its queue allows no more.
        now: The current time.
        jitter: A number from 0 to 1; None draws a random number.
    """
    return next_attempt(job, outcome, larger_spec=larger_spec, now=now, jitter=jitter) or finish(job, outcome, now=now)


def next_attempt(
    job: Job, outcome: JobOutcome, *, larger_spec: JobSpec | None, now: datetime, jitter: float | None = None
) -> Job | None:
    """Return the job as it is queued for its next attempt; None if there is none. See `end_attempt`."""
    if outcome.failure is FailureKind.OUT_OF_MEMORY:
        spec = larger_spec
    else:
        spec = job.spec if outcome.failure is not None and outcome.failure.retryable else None
    if spec is None or job.attempt >= job.retry.max_attempts:
        return None
    wait_seconds = min(job.retry.first_seconds * 2 ** (job.attempt - 1), job.retry.cap_seconds)
    wait_seconds *= 0.5 + (random.random() if jitter is None else jitter) / 2  # noqa: S311 - not cryptography
    return replace(
        job,
        spec=spec,
        state=JobState.QUEUED,
        failure=None,
        reason=f"attempt {job.attempt} of {job.retry.max_attempts} ended: {outcome.reason}",
        attempt=job.attempt + 1,
        due_at=now + timedelta(seconds=wait_seconds),
        machine=None,
        engine_id=None,
        handle=None,
        image_digest=None,
        started_at=None,
        finished_at=None,
        exit_code=None,
        log_tail="",
        lease_owner_id=None,
        lease_until=None,
    )


def finish(job: Job, outcome: JobOutcome, *, now: datetime) -> Job:
    """Finish a job. If the engine knows when the container exited, `finished_at` is set already."""
    states = {None: JobState.SUCCEEDED, FailureKind.CANCELLED: JobState.CANCELLED}
    return replace(
        job,
        state=states.get(outcome.failure, JobState.FAILED),
        failure=outcome.failure,
        reason=outcome.reason,
        due_at=None,
        finished_at=job.finished_at or now,
        lease_owner_id=None,
        lease_until=None,
    )
