"""The workers that are alive, and the amount of work that is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from upshot.ids import WorkerId


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process, as its last heartbeat described it."""

    id: WorkerId
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    in_progress: int  #: number of executions that it holds
    stream_read_at: datetime | None  #: when Redis last answered its read
    automations: int  #: number of active automations
    machine: str = ""  #: name of the machine that its jobs run on
    queues: tuple[str, ...] = ()  #: queues that it takes jobs from; `events` if it answers events
    engines: Mapping[str, str] = field(default_factory=dict)  #: id of each container engine that it reaches, by backend
    clock_skew_seconds: float = 0.0  #: how far its machine's clock is ahead of the database's
    secrets: tuple[str, ...] | None = None  #: names of the secrets that it has; None if it is an older release


class WorkerStore(Protocol):
    """The workers that are alive."""

    def heartbeat(self, worker: WorkerRecord) -> None:
        """Record that the worker is alive."""
        ...

    def deregister(self, worker_id: WorkerId) -> None:
        """Remove a worker that has stopped."""
        ...

    def list(self, *, seen_since: datetime) -> tuple[WorkerRecord, ...]:
        """Return the workers that were seen since then, the oldest first."""
        ...


class WaitKind(StrEnum):
    """What a waiting execution waits for."""

    TIME = "time"  #: the time of its next attempt
    DESTINATION = "destination"  #: room of a destination, which is down or has its maximum of attempts in progress
    AUTOMATION = "automation"  #: room of its automation, which has its maximum of attempts in progress
    DISABLED = "disabled"  #: its automation, which is disabled
    JOB = "job"  #: the end of its job


@dataclass(frozen=True, slots=True)
class Backlog:
    """The accepted work that waits for a worker, for health checks and metrics."""

    unmatched_events: int
    oldest_unmatched_at: datetime | None
    due_executions: int  #: executions that wait although their due time has passed
    oldest_due_at: datetime | None


@dataclass(frozen=True, slots=True)
class Totals:
    """The number of all stored events, executions and jobs, for metrics."""

    events: int | None  #: None if they are being counted for the first time
    executions: Mapping[str, int]  #: count by state; without the final states if they are being counted
    jobs: Mapping[str, int]  #: count by state; the same
    queued_jobs: Mapping[str, int]  #: count by queue, for queues where a job waits
    waiting: Mapping[WaitKind, int] = field(default_factory=dict)  #: waiting executions by what they wait for


class BacklogStore(Protocol):
    """Counts the backlog."""

    def measure(self, now: datetime) -> Backlog:
        """Count the work that waits. This is fast beside millions of rows."""
        ...

    def count(self) -> Totals:
        """
        Count everything.

        Whatever is not final is counted now. The other numbers may be from an earlier count, because counting millions
        of rows takes longer than a caller may wait.
        """
        ...
