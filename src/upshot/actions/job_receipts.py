"""A job as its step's receipt keeps it: what was asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upshot.clock import format_time
from upshot.domain.job import Job, JobSpec, JobState
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.masking import MASK
from upshot.schema.quantities import show_bytes, show_duration
from upshot.schema.queues import ALL_GPUS

MAX_LAST_LINE_CHARS = 200


def job_request(job: Job) -> Mapping[str, Any]:
    """What was asked for, in the words of the file, defaults filled in; secrets as the templates that give them."""
    spec, marks = job.spec, SecretPlaceholders(job.nonce)
    request = {
        "image": spec.image,
        "command": spec.command,
        "args": spec.args,
        "env": spec.env,
        "secret-files": spec.files,
        "workdir": spec.workdir,
        "resources": _resources(spec),
        "timeout": show_duration(spec.timeout_seconds),
        "grace": show_duration(spec.grace_seconds),
        "network": spec.network.value,
        "user": spec.user,
        "read-only": spec.read_only,
        "privileged": spec.privileged,
        "mounts": [{"source": m.source, "target": m.target, "read-only": m.read_only} for m in spec.mounts],
        "pull": spec.pull.value,
        "labels": spec.labels,
        "kubernetes": spec.options,
        "queue": job.queue,
        "backend": job.backend,
        "priority": job.priority,
    }
    if spec.registry_auth is not None:
        password = spec.registry_auth.password
        shown = password if marks.names(password) else MASK
        request["registry-auth"] = {"username": spec.registry_auth.username, "password": shown}
    said: Mapping[str, Any] = marks.show({key: value for key, value in request.items() if _says(value)})
    return said


def _resources(spec: JobSpec) -> dict[str, Any]:
    amounts = {
        "cpus": spec.cpus,
        "memory": spec.memory_bytes and show_bytes(spec.memory_bytes),
        "gpus": "all" if spec.gpus == ALL_GPUS else spec.gpus or None,
        "shm": spec.shm_bytes and show_bytes(spec.shm_bytes),
        "pids": spec.pids,
    }
    return {name: amount for name, amount in amounts.items() if amount is not None}


def _says(value: Any) -> bool:
    return value is not None and value not in ("", {}, [])


def job_response(job: Job) -> Mapping[str, Any]:
    """What came of it."""
    took = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
    return {
        "job": job.id,
        "state": job.state.value,
        "cause": job.failure and job.failure.value,
        "reason": job.reason,
        "exit_code": job.exit_code,
        "image_digest": job.image_digest,
        "machine": job.machine,
        "engine": job.engine_id,
        "try": job.attempt,
        "started_at": job.started_at and format_time(job.started_at),
        "finished_at": job.finished_at and format_time(job.finished_at),
        "took": took,
        "log_tail": job.log_tail,
    }


def failure_reason(job: Job) -> str:
    """Why it did not succeed, for people, with the last thing that it said."""
    how = (
        "was cancelled"
        if job.state is JobState.CANCELLED
        else f"failed ({job.failure.value})"
        if job.failure
        else "failed"
    )
    tried = f", at try {job.attempt} of {job.retry.max_attempts}" if job.attempt > 1 else ""
    reason = f": {job.reason}" if job.reason else ""
    lines = [line for line in job.log_tail.splitlines() if line.strip()]
    said = f"; its last line: {lines[-1].strip()[:MAX_LAST_LINE_CHARS]}" if lines else ""
    return f"job {job.id} {how}{tried}{reason}{said}"
