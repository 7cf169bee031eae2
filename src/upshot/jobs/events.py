"""The events of jobs: `job-started`, `job-succeeded` and `job-failed`. They fire automations like any other event."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from upshot.domain.event import SNAPSHOT_NAMES, Actor, ActorKind, Cause, Event, EventKind, Origin
from upshot.domain.job import Job, JobState
from upshot.ids import derive_event_id
from upshot.resources.event import event_reference
from upshot.resources.job import job_json

_KINDS = {
    JobState.RUNNING: EventKind.JOB_STARTED,
    JobState.SUCCEEDED: EventKind.JOB_SUCCEEDED,
    JobState.FAILED: EventKind.JOB_FAILED,
}


def job_origin(job: Job, event: Event) -> Origin:
    """Return the origin of changes that a job makes: the job itself, and the executions that led to it."""
    cause = Cause(job.automation, job.execution_id, event.id, event.version_reference)
    return Origin(Actor(f"{job.automation}/{job.step_id}", ActorKind.JOB), (*event.chain, cause))


def job_event(job: Job, event: Event, now: datetime) -> Event | None:
    """
    Return the event of a job's new state; None if the state has no event.

    Its data holds `job` (see `upshot.resources.job.JobJson`), `automation` and `queue` (names), `event`
    {id, kind, subject}, and the contexts of a registry event, so that filters on them work.

    Args:
        job: The job in its new state.
        event: The event that its execution answers.
        now: The current time.
    """
    kind = _KINDS.get(job.state)
    if kind is None:
        return None
    origin = job_origin(job, event)
    contexts = event.data if event.kind is not EventKind.CUSTOM else {}
    data: dict[str, Any] = {name: contexts[name] for name in SNAPSHOT_NAMES if name in contexts}
    data |= {"job": job_json(job), "automation": job.automation, "queue": job.queue, "event": event_reference(event)}
    return Event(
        # The same for each start and each end of an attempt, even if a worker writes it again after a crash.
        id=derive_event_id(job.id, f"{kind.value} at attempt {job.attempt}", now),
        kind=kind,
        time=now,
        subject=origin.actor.name,
        actor=origin.actor,
        mutation_id=job.id,
        sequence=int(job.state is not JobState.RUNNING),
        data=data,
        chain=origin.chain,
    )
