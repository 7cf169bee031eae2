"""Jobs as the plain data that is kept in a row, of which no database refuses anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from upshot.clock import parse_time
from upshot.domain.job import (
    FailureKind,
    ImagePullCredentials,
    Job,
    JobRetryPolicy,
    JobSpec,
    JobState,
    MemoryGrowth,
    Mount,
    Network,
    Pull,
)
from upshot.storable import to_storable, to_storable_text

T = TypeVar("T")

#: Fields of a job that are columns of their own: what is asked for, and what changes without the rest.
COLUMNS = (
    *("id", "execution_id", "automation", "step_id", "queue", "backend", "concurrency", "state", "failure", "reason"),
    *("created_at", "due_at", "finished_at", "machine", "engine_id", "lease_owner", "lease_until", "seen_at"),
    *("fence", "stop_requested_at", "stop_requested_by", "outputs", "log_tail"),
)
_DETAILS = tuple(field.name for field in fields(Job) if field.name not in COLUMNS)
_TEXTS = ("queue", "backend", "reason", "machine", "engine_id", "stop_requested_by", "log_tail")

_LARGEST = 2**31 - 1  # INTEGER of PostgreSQL


def job_to_row(job: Job) -> dict[str, Any]:
    """What is kept of a job, by column; `rank` is its priority turned round."""
    row: dict[str, Any] = {name: getattr(job, name) for name in COLUMNS}
    row |= {name: to_storable_text(text) for name in _TEXTS if (text := row[name]) is not None}
    return row | {
        "state": job.state.value,
        "failure": job.failure.value if job.failure else None,
        "concurrency": None if job.concurrency is None else min(job.concurrency, _LARGEST),
        "outputs": to_storable(job.outputs),
        "rank": rank_of(job),
        "details": {name: to_storable(getattr(job, name)) for name in _DETAILS},
    }


def job_from_row(row: Mapping[Any, Any]) -> Job:
    """Read what `job_row` made, with or without what lists leave out."""
    form = row["details"]
    columns = {name: row[name] for name in COLUMNS if name in row}
    read = {
        "state": JobState(row["state"]),
        "failure": FailureKind(row["failure"]) if row["failure"] else None,
        "spec": _spec_from(form["spec"]),
        "retry": _retry_from(form["retry"]),
        "secrets": tuple(form["secrets"]),
        "started_at": parse_time(form["started_at"]) if form["started_at"] else None,
    }
    return _record(Job, {**form, **columns, **read})


def roundtrip(job: Job) -> Job:
    """The job as it is when it has been kept and read again."""
    return job_from_row(job_to_row(job))


def rank_of(job: Job) -> int:
    """Where its priority puts it: the lowest goes first."""
    return -max(-_LARGEST, min(job.priority, _LARGEST))


def _spec_from(form: Mapping[str, Any]) -> JobSpec:
    read = {
        "command": None if form["command"] is None else tuple(form["command"]),
        "args": None if form["args"] is None else tuple(form["args"]),
        "network": Network(form["network"]),
        "mounts": tuple(_record(Mount, mount) for mount in form["mounts"]),
        "pull": Pull(form["pull"]),
        "registry_auth": _record(ImagePullCredentials, form["registry_auth"]) if form["registry_auth"] else None,
    }
    return _record(JobSpec, {**form, **read})


def _retry_from(form: Mapping[str, Any]) -> JobRetryPolicy:
    growth = form["memory_growth"]
    return _record(JobRetryPolicy, {**form, "memory_growth": _record(MemoryGrowth, growth) if growth else None})


def _record(kind: type[T], form: Mapping[str, Any]) -> T:
    """A record; what only a later Upshot knows of it is left out, for its jobs must not stop this one's worker."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # records are dataclasses
    return kind(**{name: value for name, value in form.items() if name in known})
