"""The receipt of a job: what was asked for, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upshot.clock import format_optional_time
from upshot.domain.job import Job, JobState
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.masking import cut_text
from upshot.schema.job_spec import spec_as_inputs, without_literal_password

MAX_LAST_LINE_CHARS = 200


def job_request(job: Job) -> Mapping[str, Any]:
    """Return what was asked for, as YAML keys with all defaults. Secrets are shown as the templates that name them."""
    placeholders = SecretPlaceholders(job.nonce)
    inputs = spec_as_inputs(without_literal_password(job.spec, placeholders))
    request: Mapping[str, Any] = placeholders.as_templates(inputs)
    return {**request, "queue": job.queue, "backend": job.backend, "priority": job.priority}


def job_response(job: Job) -> Mapping[str, Any]:
    """Return how the job ended."""
    took_seconds = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
    return {
        "job_id": job.id,
        "state": job.state.value,
        "failure": job.failure and job.failure.value,
        "reason": job.reason,
        "exit_code": job.exit_code,
        "image_digest": job.image_digest,
        "machine": job.machine,
        "engine_id": job.engine_id,
        "attempt": job.attempt,
        "started_at": format_optional_time(job.started_at),
        "finished_at": format_optional_time(job.finished_at),
        "took_seconds": took_seconds,
        "log_tail": job.log_tail,
    }


def failure_reason(job: Job) -> str:
    """Say for people why the job did not succeed, with the last line of its log."""
    if job.state is JobState.CANCELLED:
        ending = "was cancelled"
    else:
        ending = f"failed ({job.failure.value})" if job.failure else "failed"
    attempt = f" in attempt {job.attempt} of {job.retry.max_attempts}" if job.attempt > 1 else ""
    reason = f": {job.reason}" if job.reason else ""
    lines = [line for line in job.log_tail.splitlines() if line.strip()]
    last_line = f"; the last line of its log: {cut_text(lines[-1].strip(), MAX_LAST_LINE_CHARS)}" if lines else ""
    return f"job {job.id} {ending}{attempt}{reason}{last_line}"
