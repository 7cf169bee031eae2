"""A record of a job for tests."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from upshot.domain.job import Job, JobSpec
from upshot.ids import DeliveryId, EventId, ExecutionId, JobId


def make_job(job_id: str, created_at: datetime, **changes: Any) -> Job:
    """Return a queued job. The ids of its execution and its delivery follow from its own id."""
    suffix = job_id.removeprefix("job_")
    job = Job(
        id=JobId(job_id),
        name="evaluate",
        automation="promote",
        execution_id=ExecutionId(f"exe_{suffix}"),
        step_id="evaluate",
        event_id=EventId("evt_1"),
        delivery_id=DeliveryId(f"dlv_{suffix}"),
        queue="default",
        backend="docker",
        spec=JobSpec(image="acme/evaluate:1"),
        created_at=created_at,
        due_at=created_at,
    )
    return replace(job, **changes)
