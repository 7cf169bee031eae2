"""Ports of jobs: what workers need to claim and supervise them, and what people read and request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from upshot.domain.event import Event
from upshot.domain.job import Job, JobState
from upshot.ids import ExecutionId, JobId, WorkerId
from upshot.ports.paging import Page

END_OF_EXECUTION = "the end of its execution"  #: requester of a stop if it is not a person


@dataclass(frozen=True, slots=True)
class ConcurrencyLimits:
    """How many jobs of a queue can be active at the same time; None: any number."""

    concurrency: int | None = None  #: over all machines
    per_machine: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerCapacity:
    """What a worker can claim."""

    worker_id: WorkerId
    machine: str
    engine_ids: Mapping[str, str]  #: identity of each engine that the worker reaches, by backend
    queues: Mapping[str, ConcurrencyLimits]  #: the queues that the worker takes
    machine_limit: int | None = None  #: active jobs on this machine, over all queues; None: any number
    max_jobs: int = 50  #: in one claim


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """The new state of a job. It is written if the fence still matches."""

    job: Job
    events: tuple[Event, ...] = ()  #: accepted in the same transaction
    wakes_execution: bool = False  #: makes the execution that waits for the job due


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list; None means any."""

    states: frozenset[JobState] = frozenset()  #: any of them; empty: any state
    queue: str | None = None
    automation: str | None = None
    execution_id: ExecutionId | None = None
    since: datetime | None = None  #: of the end of a job, or of its creation if it has not ended
    id_part: str | None = None  #: the beginning or the end of the id


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """The position of a queued job."""

    ahead: int  #: queued jobs of its queue that start first
    active: int  #: active jobs of its queue


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A chunk of a job's log."""

    number: int  #: counted from 1 over the job; a gap shows that the size limit removed chunks
    text: str


class JobStore(Protocol):
    """
    Jobs, as workers see them. New jobs are stored by `ExecutionStore.record`, with the execution that waits for them.

    A state is written only if the fence matches. A job whose execution has ended, or was retried by a person,
    counts as requested to stop, by `END_OF_EXECUTION`.
    """

    def claim_queued(self, capacity: WorkerCapacity, *, now: datetime, until: datetime) -> tuple[Job, ...]:
        """
        Lease due jobs that fit the capacity (`jobs.transitions.claim`): higher priorities first, then older jobs.

        One lock per database makes sure that the limits of the queue and of the machine, and the job's own
        `concurrency` (over the active jobs of its step), are never exceeded.
        """
        ...

    def claim_abandoned(
        self, engine_ids: Collection[str], *, worker_id: WorkerId, now: datetime, until: datetime
    ) -> tuple[Job, ...]:
        """Lease the active jobs of these engines whose lease has run out. State and engine stay."""
        ...

    def claim_lost(
        self, *, seen_before: datetime, worker_id: WorkerId, now: datetime, until: datetime
    ) -> tuple[Job, ...]:
        """Lease the active jobs whose lease has run out and whose engine no worker has reached since `seen_before`."""
        ...

    def record(self, updates: Sequence[JobUpdate]) -> frozenset[JobId]:
        """
        Write states, accept events and wake executions, in one transaction.

        Waking makes an execution due now if it waits without a due time. While a job is active, only `renew`
        changes its lease and `seen_at`; the end of an attempt ends the lease. Stop requests belong to
        `JobAdmin.request_stop`. Characters that a database refuses are replaced.

        Returns:
            Ids of the jobs whose state was refused because of a newer claim. Their events and wakes are dropped.
        """
        ...

    def renew(
        self, job_ids: Collection[JobId], *, worker_id: WorkerId, until: datetime, seen_at: datetime | None
    ) -> frozenset[JobId]:
        """Renew the leases that the worker still holds, and return their ids. `seen_at` None leaves it unchanged."""
        ...

    def stop_requests(self, job_ids: Collection[JobId]) -> Mapping[JobId, str]:
        """Return who requested a stop, by job id: a person, or END_OF_EXECUTION."""
        ...

    def cancel_unneeded(self, now: datetime) -> int:
        """Cancel the queued jobs that have a stop request or whose execution has ended. Return their number."""
        ...

    def get(self, job_ids: Collection[JobId]) -> Mapping[JobId, Job]:
        """Return those of the jobs that exist, by id."""
        ...

    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        """End the leases of a worker that is known to be dead. Return their number."""
        ...

    def append_log(self, job_id: JobId, text: str, *, position: str, now: datetime, keep_bytes: int) -> None:
        """
        Append a chunk to a job's log, and remove the oldest chunks beyond a size.

        Args:
            job_id: The job. Nothing happens if it does not exist.
            text: May be empty, to store only the position.
            position: Where the next worker continues to read the engine's log; at most 200 characters.
            now: The current time.
            keep_bytes: Maximum size of the log in UTF-8. The last chunk is always kept.
        """
        ...

    def log_position(self, job_id: JobId) -> str | None:
        """Return the position of the last chunk; None if there is no chunk."""
        ...


class JobAdmin(Protocol):
    """What people read about jobs, and what they request."""

    def find(self, job_id: JobId) -> Job | None:
        """Return a job, or None if it does not exist."""
        ...

    def page(self, query: JobQuery, *, cursor: str | None, limit: int) -> Page[Job]:
        """Return jobs, newest first, without outputs and log tails, which can be large."""
        ...

    def queue_position(self, job: Job) -> QueuePosition | None:
        """Return the position of a queued job; None if it is not queued."""
        ...

    def log_chunks(self, job_id: JobId, *, after: int, limit: int) -> tuple[LogChunk, ...]:
        """Return the chunks of the log after a number, in order."""
        ...

    def request_stop(self, job_id: JobId, requested_by: str, now: datetime) -> Job:
        """
        Request that a job stops. See `jobs.transitions.request_stop`; cancelling a queued job wakes its execution.

        Raises:
            NotFound: The job does not exist.
            Conflict: The job has ended.
        """
        ...

    def prune(self, *, finished_before: datetime) -> int:
        """Remove jobs with their logs if they ended before then and their execution is final. Return their number."""
        ...


@dataclass(frozen=True, slots=True)
class Installation:
    """This installation of Upshot, among others on the same engine."""

    id: str  #: a label of every container
    key: bytes  #: 32 random bytes, from which job tokens are derived


class InstallationStore(Protocol):
    """The installation of a database. The first process that asks creates it."""

    def get_or_create(self, create: Callable[[], Installation]) -> Installation:
        """Return the stored installation. If there is none, store the result of `create` first."""
        ...
