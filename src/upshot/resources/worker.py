"""A worker process."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_optional_time, format_time
from upshot.ports.automation_sets import KnownSets
from upshot.ports.workers import WorkerRecord


class AutomationSetJson(TypedDict):
    """The set of automations that a worker has loaded."""

    digest: str
    number: int | None  #: the set with the highest number that a live worker has is in force; null without one
    matches: bool  #: whether it is in force, so that the worker answers events
    difference: str | None  #: from the set in force, and which workers have that; null if it is in force


class WorkerJson(TypedDict):
    """A worker that is alive."""

    id: str
    host: str
    pid: int
    started_at: str
    seen_at: str
    in_progress: int  #: executions that it is carrying out
    stream_read_at: str | None  #: when Redis last answered its read of the stream
    automations: int  #: how many it has loaded
    machine: str  #: where its jobs run
    queues: list[str]  #: of jobs that it takes; `events` among them means that it answers events
    engines: dict[str, str]  #: id of each container engine that it reaches, by backend
    clock_skew_seconds: float  #: how far its machine's clock is ahead of the database's
    secrets: list[str] | None  #: names of the secrets that it has; null if it is an older release
    automation_set: AutomationSetJson | None  #: the automations that it has loaded; null if it answers no events


def worker_json(worker: WorkerRecord, known: KnownSets) -> WorkerJson:
    """Return the JSON object of a worker."""
    holding = known.holdings.get(worker.id)
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "started_at": format_time(worker.started_at),
        "seen_at": format_time(worker.seen_at),
        "in_progress": worker.in_progress,
        "stream_read_at": format_optional_time(worker.stream_read_at),
        "automations": worker.automations,
        "machine": worker.machine,
        "queues": list(worker.queues),
        "engines": dict(worker.engines),
        "clock_skew_seconds": round(worker.clock_skew_seconds, 3),
        "secrets": None if worker.secrets is None else list(worker.secrets),
        "automation_set": None
        if holding is None
        else {
            "digest": holding.digest,
            "number": known.number_of(holding.digest),
            "matches": holding.matches,
            "difference": holding.difference,
        },
    }
