"""A container job: its summary in lists, the context `job` of templates and events, and all details."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_optional_time, format_time
from upshot.domain.job import Job, JobRetryPolicy, JobSpec
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.ports.jobs import QueuePosition
from upshot.schema.job_spec import without_literal_password


class JobSummary(TypedDict):
    """A container job, as lists show it."""

    id: str
    name: str  #: as written, or the step's id
    automation: str
    execution_id: str  #: the execution whose step waits for the job
    step_id: str
    event_id: str  #: the event that the execution answers
    version: str | None  #: reference of the version that the event is about
    queue: str
    backend: str
    image: str
    image_digest: str | None
    priority: int  #: higher first
    state: str  #: queued, starting, running, stopping, succeeded, failed or cancelled
    failure: str | None  #: why the last attempt failed: exited, timed-out, out-of-memory, …
    reason: str | None  #: why it waits, or how it ended
    attempt: int  #: number of the current or last attempt, counted from 1
    machine: str | None  #: of the worker that started the attempt
    exit_code: int | None
    created_at: str
    due_at: str | None  #: when a queued job may start
    started_at: str | None
    finished_at: str | None


class JobJson(JobSummary):
    """A container job, as templates and events show it."""

    outputs: dict[str, Any] | None


class JobDetail(JobJson):
    """A container job with all details."""

    wait_reason: str | None  #: what a queued job waits for; null if it is not queued
    queue_position: QueuePosition | None  #: of a queued job
    spec: JobSpec  #: with the queue's defaults filled in; secrets as the templates that name them
    retry: JobRetryPolicy
    concurrency: int | None  #: jobs of this step that may run at the same time; null: only the queue's limits apply
    secrets: list[str]  #: names of the secrets that are filled in when the job starts
    save_metrics: bool  #: whether `metrics` of the outputs go to the version's metadata
    delivery_id: str
    container: str  #: name of the current attempt's container
    engine_id: str | None  #: the container engine that runs it
    handle: str | None  #: the engine's own id of the container
    seen_at: str | None  #: when the engine last reported on it
    stop_requested_at: str | None
    stop_requested_by: str | None
    log_tail: str  #: the last 64 KB of a finished attempt; `/log` has all that is kept, also of a running job


def job_summary(job: Job) -> JobSummary:
    """Return the JSON object of a job in a list."""
    summary: JobSummary = {
        "id": job.id,
        "name": job.name,
        "automation": job.automation,
        "execution_id": job.execution_id,
        "step_id": job.step_id,
        "event_id": job.event_id,
        "version": job.version_reference,
        "queue": job.queue,
        "backend": job.backend,
        "image": job.spec.image,
        "image_digest": job.image_digest,
        "priority": job.priority,
        "state": job.state.value,
        "failure": job.failure.value if job.failure else None,
        "reason": job.reason,
        "attempt": job.attempt,
        "machine": job.machine,
        "exit_code": job.exit_code,
        "created_at": format_time(job.created_at),
        "due_at": format_optional_time(job.due_at),
        "started_at": format_optional_time(job.started_at),
        "finished_at": format_optional_time(job.finished_at),
    }
    return cast("JobSummary", SecretPlaceholders(job.nonce).as_templates(summary))


def job_json(job: Job) -> JobJson:
    """Return the JSON object of a job with its outputs."""
    return {**job_summary(job), "outputs": None if job.outputs is None else dict(job.outputs)}


def job_detail(job: Job, queue_position: QueuePosition | None, wait_reason: str | None) -> JobDetail:
    """
    Return the JSON object of a job with all details.

    Every placeholder of a secret is shown as the template that it came from, and a literal password as `***`.
    """
    placeholders = SecretPlaceholders(job.nonce)
    spec = without_literal_password(job.spec, placeholders)
    detail: JobDetail = {
        **job_json(job),
        "wait_reason": wait_reason,
        "queue_position": queue_position,
        "spec": cast("JobSpec", asdict(spec)),  # plain data, so that `as_templates` reaches its texts
        "retry": job.retry,
        "concurrency": job.concurrency,
        "secrets": list(job.secrets),
        "save_metrics": job.save_metrics,
        "delivery_id": job.delivery_id,
        "container": job.container_name,
        "engine_id": job.engine_id,
        "handle": job.handle,
        "seen_at": format_optional_time(job.seen_at),
        "stop_requested_at": format_optional_time(job.stop_requested_at),
        "stop_requested_by": job.stop_requested_by,
        "log_tail": job.log_tail,
    }
    return cast("JobDetail", placeholders.as_templates(detail))
