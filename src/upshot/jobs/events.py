"""The events that a job's life is: they fire automations like any other."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from upshot.clock import format_time
from upshot.domain.event import SNAPSHOT_NAMES, Actor, Cause, Event, EventKind
from upshot.domain.job import Job, JobState
from upshot.ids import derived_event_id

_KINDS = {
    JobState.RUNNING: EventKind.JOB_STARTED,
    JobState.SUCCEEDED: EventKind.JOB_SUCCEEDED,
    JobState.FAILED: EventKind.JOB_FAILED,
}


def actor_of(job: Job) -> Actor:
    """In whose name a job changes the registry: its own."""
    return Actor(f"{job.automation}/{job.step_id}", "job")


def chain_of(job: Job, event: Event) -> tuple[Cause, ...]:
    """What led to whatever the job causes."""
    return (*event.chain, Cause(job.automation, job.execution_id, event.id, event.version_reference))


def job_event(job: Job, event: Event, moment: datetime) -> Event | None:
    """
    What happened, for those who watch over jobs; None for a state that nobody is told of.

    Its data holds `job` (see `job_context`), `automation` and `queue` (names), `event` {id, kind,
    subject} and, of a registry event, the contexts that it carried, so that filters on them hold.

    Args:
        job: RUNNING, or at its end.
        event: That its execution answers.
        moment: When it happened.
    """
    kind = _KINDS.get(job.state)
    if kind is None:
        return None
    carried = event.data if event.kind is not EventKind.CUSTOM else {}
    data: dict[str, Any] = {name: carried[name] for name in SNAPSHOT_NAMES if name in carried}
    data |= {
        "job": job_context(job),
        "automation": job.automation,
        "queue": job.queue,
        "event": {"id": event.id, "kind": event.kind.value, "subject": event.subject},
    }
    return Event(
        # Once for each try's start and each end, whoever writes it again after a crash.
        id=derived_event_id(job.id, f"{kind.value} at try {job.attempt}", moment),
        kind=kind,
        time=moment,
        subject=f"{job.automation}/{job.step_id}",
        actor=actor_of(job),
        mutation_id=job.id,
        sequence=int(job.state is not JobState.RUNNING),
        data=data,
        chain=chain_of(job, event),
    )


def job_context(job: Job) -> Mapping[str, Any]:
    """What templates know as `job`."""
    return {
        "id": job.id,
        "name": job.name,
        "automation": job.automation,
        "step": job.step_id,
        "execution": job.execution_id,
        "queue": job.queue,
        "backend": job.backend,
        "image": job.spec.image,
        "image_digest": job.image_digest,
        "machine": job.machine,
        "try": job.attempt,
        "state": job.state.value,
        "cause": job.failure.value if job.failure else None,
        "reason": job.reason,
        "exit_code": job.exit_code,
        "outputs": dict(job.outputs) if job.outputs is not None else None,
        "started_at": format_time(job.started_at) if job.started_at else None,
        "finished_at": format_time(job.finished_at) if job.finished_at else None,
    }
