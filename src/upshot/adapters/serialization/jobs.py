"""Jobs as rows of plain data, which every database can store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter

from upshot.clock import parse_time
from upshot.domain.job import FailureKind, Job, JobRetryPolicy, JobSpec, JobState
from upshot.storable import to_storable
from upshot.unicode_text import to_storable_text

#: Fields of a job that have a column of their own: queries use them, or they change without the other fields.
COLUMNS = (
    "id",
    "execution_id",
    "automation",
    "step_id",
    "queue",
    "backend",
    "concurrency",
    "state",
    "failure",
    "reason",
    "created_at",
    "due_at",
    "finished_at",
    "machine",
    "engine_id",
    "lease_owner_id",
    "lease_until",
    "seen_at",
    "fence",
    "stop_requested_at",
    "stop_requested_by",
    "outputs",
    "log_tail",
)
_DETAILS = tuple(field.name for field in fields(Job) if field.name not in COLUMNS)
_TEXTS = ("queue", "backend", "reason", "machine", "engine_id", "stop_requested_by", "log_tail")
_MAX_INTEGER = 2**31 - 1  # INTEGER of PostgreSQL

# They ignore keys that only a later version of Upshot knows, so that its jobs do not stop the workers of this version.
_SPEC = TypeAdapter(JobSpec)
_RETRY = TypeAdapter(JobRetryPolicy)


def job_to_row(job: Job) -> dict[str, Any]:
    """Return the row of a job, by column."""
    row: dict[str, Any] = {name: getattr(job, name) for name in COLUMNS}
    row |= {name: to_storable_text(text) for name in _TEXTS if (text := row[name]) is not None}
    return row | {
        "state": job.state.value,
        "failure": job.failure.value if job.failure else None,
        "concurrency": None if job.concurrency is None else min(job.concurrency, _MAX_INTEGER),
        "outputs": to_storable(job.outputs),
        "rank": rank_of(job),
        "details": {name: to_storable(getattr(job, name)) for name in _DETAILS} | {"priority": -rank_of(job)},
    }


def job_from_row(row: Mapping[Any, Any]) -> Job:
    """Read a row that `job_to_row` returned. Lists omit the columns that can be large."""
    details = row["details"]
    values = {name: row[name] for name in COLUMNS if name in row}
    values |= {name: details[name] for name in _DETAILS if name in details}
    values |= {
        "state": JobState(row["state"]),
        "failure": FailureKind(row["failure"]) if row["failure"] else None,
        "spec": _SPEC.validate_python(details["spec"]),
        "retry": _RETRY.validate_python(details["retry"]),
        "secrets": tuple(details["secrets"]),
        "started_at": parse_time(details["started_at"]) if details["started_at"] else None,
    }
    return Job(**values)


def roundtrip(job: Job) -> Job:
    """Return the job as a database would return it."""
    return job_from_row(job_to_row(job))


def rank_of(job: Job) -> int:
    """Return the number by which jobs are sorted: the negated priority, as an INTEGER."""
    return -max(-_MAX_INTEGER, min(job.priority, _MAX_INTEGER))
