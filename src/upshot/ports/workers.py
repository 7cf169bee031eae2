"""Who is working, and how much is left to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from upshot.ids import WorkerId


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process that said it is alive."""

    id: WorkerId
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    in_progress: int  #: executions that it holds
    stream_read_at: datetime | None  #: when Redis last answered its read
    automations: int
    machine: str = ""  #: that its jobs run on
    queues: tuple[str, ...] = ()  #: of jobs, that it takes; `events` among them: it answers events
    engines: Mapping[str, str] = field(default_factory=dict)  #: that it reaches: identity by backend


class WorkerStore(Protocol):
    """Who is working."""

    def heartbeat(self, worker: WorkerRecord) -> None:
        """Say that the worker is alive."""
        ...

    def deregister(self, worker_id: WorkerId) -> None:
        """Say that the worker has stopped."""
        ...

    def list(self, *, seen_since: datetime) -> tuple[WorkerRecord, ...]:
        """Workers that were seen since then."""
        ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much is accepted and not finished; for health and metrics."""

    events: int  #: accepted in all
    unmatched_events: int
    oldest_unmatched_at: datetime | None
    executions: Mapping[str, int]  #: count by state
    due_executions: int  #: waiting and past their time
    oldest_due_at: datetime | None
    jobs: Mapping[str, int]  #: count by state
    queued_jobs: Mapping[str, int]  #: count by queue, of those where any waits


class BacklogStore(Protocol):
    """Counts."""

    def measure(self, now: datetime) -> Backlog:
        """Count what stands."""
        ...
