"""
How a job's state follows from what its engine says: pure functions, no engine and no clock.

    queued ─► starting ─► running ─┬─► ended by itself ─► succeeded, or failed with a cause
                  ▲                └─► stopping (deadline, a person) ─► failed, cancelled
                  └──── another try, where the cause is worth it
"""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from upshot.backends.protocol import ContainerStatus
from upshot.domain.job import FailureKind, Job, JobSpec, JobState

_SLACK = timedelta(seconds=1)  # between an engine's clock reading of the end and our own deadline
_SIGNALLED = 128  # a shell's and an engine's way of saying: ended by signal N
#: Exit codes of what an engine takes down with it: SIGKILL, SIGTERM, and Docker's word for "I do not know".
_TAKEN_DOWN = frozenset({137, 143, 255, None})


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a try ended; cause None: well, as far as the engine can tell."""

    failure: FailureKind | None
    reason: str | None


def classify_exit(job: Job, sighting: ContainerStatus, *, engine_was_away: bool) -> JobOutcome:
    """
    Say how an ended try ended; its outputs are not looked at yet.

    Args:
        job: As it stands; in STOPPING its cause says why it was stopped.
        sighting: Of the ended container.
        engine_was_away: The engine did not answer for a time, since the job was last seen to run.
    """
    if job.failure is FailureKind.CANCELLED:
        return JobOutcome(FailureKind.CANCELLED, job.reason)
    if _ran_too_long(job, sighting) or sighting.failure is FailureKind.TIMED_OUT:
        return JobOutcome(
            FailureKind.TIMED_OUT, f"it ran for longer than its timeout of {job.spec.timeout_seconds:g} s"
        )
    if sighting.failure is not None:
        return JobOutcome(sighting.failure, _in_words(job, sighting))
    if engine_was_away and sighting.exit_code in _TAKEN_DOWN:
        return JobOutcome(FailureKind.ENGINE_LOST, "its engine stopped while it ran, and took it down")
    if sighting.exit_code == 0:
        return JobOutcome(None, None)
    return JobOutcome(FailureKind.EXITED, _in_words(job, sighting))


def _ran_too_long(job: Job, sighting: ContainerStatus) -> bool:
    started = sighting.started_at or job.started_at
    if started is None:
        return job.failure is FailureKind.TIMED_OUT
    deadline = started + timedelta(seconds=job.spec.timeout_seconds)
    return (sighting.finished_at is not None and sighting.finished_at > deadline + _SLACK) or (
        job.failure is FailureKind.TIMED_OUT and (sighting.finished_at is None or sighting.finished_at >= deadline)
    )


def _in_words(job: Job, sighting: ContainerStatus) -> str:
    note = f": {sighting.note}" if sighting.note else ""
    if sighting.failure is FailureKind.OUT_OF_MEMORY:
        limit = job.spec.memory_bytes
        ceiling = f" of {limit / 2**20:g} MiB" if limit else ""
        return f"it ran out of memory{ceiling}; give it more under `resources: {{memory: …}}`{note}"
    if sighting.failure is not None:
        return f"{sighting.failure.value}{note}"
    if sighting.exit_code is None:
        return f"it ended, and its engine does not know how{note}"
    return f"it ended with exit code {sighting.exit_code}{_signal(sighting.exit_code)}{note}"


def _signal(code: int) -> str:
    try:
        return f" ({signal.Signals(code - _SIGNALLED).name})"
    except ValueError:
        return ""


def next_attempt(
    job: Job, end: JobOutcome, *, grown: JobSpec | None, now: datetime, chance: float | None = None
) -> Job | None:
    """
    Give the job as it is queued for another try; None where its end is final.

    Args:
        job: As it stands.
        end: How the present try ended.
        grown: The spec with more memory; None where that was not asked for, or more is not to be had.
        now: The present moment.
        chance: From 0 to 1, for the jitter; None: by chance.
    """
    spec = job.spec
    if end.failure is FailureKind.OUT_OF_MEMORY:
        if grown is None:
            return None
        spec = grown
    elif end.failure is None or not end.failure.is_worth_retrying:
        return None
    if job.attempt >= job.retry.max_attempts:
        return None
    wait = min(job.retry.first_seconds * 2 ** (job.attempt - 1), job.retry.cap_seconds)
    wait *= 0.5 + (random.random() if chance is None else chance) / 2  # noqa: S311 - jitter, not cryptography
    return replace(
        job,
        spec=spec,
        state=JobState.QUEUED,
        failure=None,
        reason=f"try {job.attempt} of {job.retry.max_attempts} ended: {end.reason}",
        attempt=job.attempt + 1,
        due_at=now + timedelta(seconds=wait),
        machine=None,
        engine_id=None,
        handle=None,
        image_digest=None,
        started_at=None,
        finished_at=None,
        exit_code=None,
        log_tail="",
        lease_owner=None,
        lease_until=None,
    )


def finish(job: Job, end: JobOutcome, *, now: datetime) -> Job:
    """The job at its end; when that was by the engine's clock stands in it already, where the engine knows."""
    states = {None: JobState.SUCCEEDED, FailureKind.CANCELLED: JobState.CANCELLED}
    return replace(
        job,
        state=states.get(end.failure, JobState.FAILED),
        failure=end.failure,
        reason=end.reason,
        due_at=None,
        finished_at=job.finished_at or now,
        lease_owner=None,
        lease_until=None,
    )
