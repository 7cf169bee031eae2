"""Jobs as the plain data that is kept in a row, of which no database refuses anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

from upshot.clock import format_time, parse_time
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
_WHOLE_NUMBERS = range(-(2**63), 2**64)  # what JSON is written with here


def job_row(job: Job) -> dict[str, Any]:
    """What is kept of a job, by column; `rank` is its priority turned round."""
    row: dict[str, Any] = {name: getattr(job, name) for name in COLUMNS}
    row |= {name: keepable_text(text) for name in _TEXTS if (text := row[name]) is not None}
    return row | {
        "state": job.state.value,
        "cause": job.cause.value if job.cause else None,
        "concurrency": None if job.concurrency is None else min(job.concurrency, _LARGEST),
        "outputs": keepable(job.outputs),
        "rank": rank_of(job),
        "form": {name: keepable(getattr(job, name)) for name in _FORM},
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


def keepable_text(text: str) -> str:
    """The text without NUL, which PostgreSQL refuses, and without halves of characters, which are no UTF-8."""
    whole = text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\x00", "\ufffd")


def keepable(value: Any) -> Any:
    """
    The value as data that can be written as JSON and read again.

    Whole numbers beyond 64 bits become fractions, or texts where they are too large for that, too;
    infinity and what is no number become null; what is no data becomes its text.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return keepable_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _keepable_number(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {keepable_text(str(key)): keepable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [keepable(item) for item in value]
    return value if value is None or isinstance(value, bool) else _keepable_object(value)


def _keepable_object(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if is_dataclass(value):
        return {field.name: keepable(getattr(value, field.name)) for field in fields(value)}
    return keepable_text(str(value))


def _keepable_number(number: int) -> int | float | str:
    if number in _WHOLE_NUMBERS:
        return number
    try:
        return float(number)
    except OverflowError:
        return f"{number:#x}"  # in tens it would take long, and Python refuses to
