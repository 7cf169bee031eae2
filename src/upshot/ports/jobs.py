"""Jobs: kept, claimed by the workers that can run them, watched under a lease, and read by people."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from upshot.domain.event import Event
from upshot.domain.job import Job, JobState
from upshot.ids import ExecutionId, JobId, WorkerId
from upshot.ports.paging import Page

END_OF_EXECUTION = "the end of its execution"  #: who asked, where no person did


@dataclass(frozen=True, slots=True)
class ConcurrencyLimits:
    """How many jobs of a queue are active at the same time; None: any number."""

    concurrency: int | None = None  #: over all machines
    per_machine: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerCapacity:
    """What a worker can take now."""

    worker_id: WorkerId  #: the worker
    machine: str
    engines: Mapping[str, str]  #: by backend, identity of the engine that answers here
    queues: Mapping[str, ConcurrencyLimits]  #: that this worker takes
    machine_limit: int | None = None  #: jobs active on this machine, over all queues; None: any number
    max_jobs: int = 50  #: at one time


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """The new state of a job; written if the fence still holds."""

    job: Job
    events: tuple[Event, ...] = ()  #: accepted together with the state
    wakes: bool = False  #: the execution that waits for it is due now


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list; None means any."""

    state: JobState | None = None
    queue: str | None = None
    automation: str | None = None
    execution_id: ExecutionId | None = None


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a queued job stands."""

    ahead: int  #: queued jobs of its queue that go first
    active: int  #: jobs of its queue that hold a place now


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a job's log."""

    number: int  #: counted from 1 over the job; a gap is what the cap removed
    text: str


class JobStore(Protocol):
    """
    Jobs, as the workers see them. New ones come with `ExecutionStore.record` (`Progress.jobs`).

    Where a verb writes a state it stamps the row only if the fence holds. A job whose execution
    has ended, or was retried by a person, counts as asked to stop, by `END_OF_EXECUTION`.
    """

    def claim_queued(self, capacity: WorkerCapacity, *, now: datetime, until: datetime) -> tuple[Job, ...]:
        """
        Lease due jobs that fit the offer, as STARTING: higher priority first, then older.

        Under one lock per database: neither the queue's limits, nor the machine's, nor a job's own
        `concurrency` (counted over active jobs of the same automation and step) are ever exceeded.
        Sets `machine`, `engine`, `lease_*`, `seen_at` = now, and a fence one higher.
        """
        ...

    def claim_abandoned(
        self, engine_ids: Collection[str], *, worker_id: WorkerId, now: datetime, until: datetime
    ) -> tuple[Job, ...]:
        """Lease active jobs of these engines whose lease has run out; state and engine stay."""
        ...

    def claim_lost(self, *, seen_before: datetime, worker_id: WorkerId, now: datetime, until: datetime) -> tuple[Job, ...]:
        """Lease active jobs whose lease has run out and whose engine nobody has reached since then."""
        ...

    def record(self, updates: Sequence[JobUpdate]) -> frozenset[JobId]:
        """
        Write states, accept events, wake executions, in one transaction.

        An execution is woken by making it due now, if it is waiting without a due time. Leases and
        `seen_at` are left to `renew` while a job is active, and leases end with its try; wishes to
        stop are left to `JobDesk.ask_stop`. Characters that a database refuses are replaced.

        Returns:
            Ids whose state was refused, since another claim came between; their events and wakes are left out.
        """
        ...

    def renew(self, job_ids: Collection[JobId], *, worker_id: WorkerId, until: datetime, seen_at: datetime | None) -> frozenset[JobId]:
        """Prolong leases that the owner still holds (`seen_at` None: leave as it is); returns those ids."""
        ...

    def stop_requests(self, job_ids: Collection[JobId]) -> Mapping[JobId, str]:
        """Who asked, by id: a person, or the end of the execution that the job belongs to."""
        ...

    def cancel_unneeded(self, now: datetime) -> int:
        """End queued jobs that nobody waits for: those asked to stop, those whose execution is final; how many."""
        ...

    def get(self, job_ids: Collection[JobId]) -> Mapping[JobId, Job]:
        """The jobs of these ids; those that do not exist are left out."""
        ...

    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        """End the leases of a worker that is known to be dead; returns how many."""
        ...

    def append_log(self, job_id: JobId, text: str, *, position: str, now: datetime, keep_bytes: int) -> None:
        """
        Add a piece to a job's log, and remove its oldest pieces beyond so many bytes.

        Args:
            job: Its id.
            text: What it said; may be empty, to keep the position alone.
            position: Up to where the engine's log has been read, for whoever watches the job next; at most 200
                characters.
            now: The present moment.
            keep_bytes: Size of the whole log, in UTF-8; the last piece is kept in any case.
        """
        ...

    def log_position(self, job_id: JobId) -> str | None:
        """The position that the last piece was added with; None before the first."""
        ...


class JobAdmin(Protocol):
    """What people ask about jobs and do to them."""

    def find(self, job_id: JobId) -> Job | None:
        """One job."""
        ...

    def page(self, query: JobQuery, *, cursor: str | None, limit: int) -> Page[Job]:
        """Jobs, newest first, without their outputs and log tails, which may be large."""
        ...

    def queue_position(self, job: Job) -> QueuePosition | None:
        """Where a queued job stands; None when it is not queued."""
        ...

    def log_chunks(self, job_id: JobId, *, after: int, limit: int) -> tuple[LogChunk, ...]:
        """Pieces of the log after that number, in order."""
        ...

    def request_stop(self, job_id: JobId, requested_by: str, now: datetime) -> Job:
        """
        Ask a job to stop. A queued one is CANCELLED at once and wakes its execution; an active one is
        stopped by the worker that watches it.

        Raises:
            NotFound: No such job.
            Conflict: It has ended.
        """
        ...

    def prune(self, *, finished_before: datetime) -> int:
        """Remove jobs and their logs that ended before then and whose execution is final; returns how many."""
        ...


@dataclass(frozen=True, slots=True)
class Installation:
    """This Upshot, among others on the same engine."""

    id: str  #: on every container of ours, as a label
    key: bytes  #: 32 bytes of chance; what job tokens are made with


class InstallationStore(Protocol):
    """Made once, by whoever asks first."""

    def get_or_create(self, create: Callable[[], Installation]) -> Installation:
        """The one that is kept; kept now if there was none."""
        ...
