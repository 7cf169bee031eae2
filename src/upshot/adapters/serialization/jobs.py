"""Jobs as the plain data that is kept in a row, of which no database refuses anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from upshot.clock import parse_time
from upshot.domain.job import (
    Job,
    JobCause,
    JobSpec,
    JobState,
    MemoryGrowth,
    Mount,
    Network,
    Pull,
    RegistryAuth,
    Tries,
)
from upshot.storable import to_storable, to_storable_text

T = TypeVar("T")

#: Fields of a job that are columns of their own: what is asked for, and what changes without the rest.
COLUMNS = (
    *("id", "execution", "automation", "step", "queue", "backend", "concurrency", "state", "cause", "reason"),
    *("created_at", "due_at", "finished_at", "machine", "engine", "lease_owner", "lease_until", "seen_at"),
    *("fence", "stop_asked_at", "stop_asked_by", "outputs", "log_tail"),
)
_FORM = tuple(field.name for field in fields(Job) if field.name not in COLUMNS)
_TEXTS = ("queue", "backend", "reason", "machine", "engine", "stop_asked_by", "log_tail")

_LARGEST = 2**31 - 1  # INTEGER of PostgreSQL


def job_row(job: Job) -> dict[str, Any]:
    """What is kept of a job, by column; `rank` is its priority turned round."""
    row: dict[str, Any] = {name: getattr(job, name) for name in COLUMNS}
    row |= {name: to_storable_text(text) for name in _TEXTS if (text := row[name]) is not None}
    return row | {
        "state": job.state.value,
        "cause": job.cause.value if job.cause else None,
        "concurrency": None if job.concurrency is None else min(job.concurrency, _LARGEST),
        "outputs": to_storable(job.outputs),
        "rank": rank_of(job),
        "form": {name: to_storable(getattr(job, name)) for name in _FORM},
    }


def job_of(row: Mapping[Any, Any]) -> Job:
    """Read what `job_row` made, with or without what lists leave out."""
    form = row["form"]
    columns = {name: row[name] for name in COLUMNS if name in row}
    read = {
        "state": JobState(row["state"]),
        "cause": JobCause(row["cause"]) if row["cause"] else None,
        "spec": _spec_of(form["spec"]),
        "tries": _tries_of(form["tries"]),
        "secrets": tuple(form["secrets"]),
        "started_at": parse_time(form["started_at"]) if form["started_at"] else None,
    }
    return _record(Job, {**form, **columns, **read})


def kept(job: Job) -> Job:
    """The job as it is when it has been kept and read again."""
    return job_of(job_row(job))


def rank_of(job: Job) -> int:
    """Where its priority puts it: the lowest goes first."""
    return -max(-_LARGEST, min(job.priority, _LARGEST))


def _spec_of(form: Mapping[str, Any]) -> JobSpec:
    read = {
        "command": None if form["command"] is None else tuple(form["command"]),
        "args": None if form["args"] is None else tuple(form["args"]),
        "network": Network(form["network"]),
        "mounts": tuple(_record(Mount, mount) for mount in form["mounts"]),
        "pull": Pull(form["pull"]),
        "registry_auth": _record(RegistryAuth, form["registry_auth"]) if form["registry_auth"] else None,
    }
    return _record(JobSpec, {**form, **read})


def _tries_of(form: Mapping[str, Any]) -> Tries:
    growth = form["memory_growth"]
    return _record(Tries, {**form, "memory_growth": _record(MemoryGrowth, growth) if growth else None})


def _record(kind: type[T], form: Mapping[str, Any]) -> T:
    """A record; what only a later Upshot knows of it is left out, for its jobs must not stop this one's worker."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # records are dataclasses
    return kind(**{name: value for name, value in form.items() if name in known})
