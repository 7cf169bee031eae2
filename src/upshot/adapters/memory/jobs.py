"""Jobs and the installation in memory: the same promises as in SQL, for tests and `upshot.testing`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from upshot.adapters.cursor import after_cursor, make_cursor
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.serialization.jobs import rank_of, roundtrip
from upshot.domain.job import Job, JobState
from upshot.ids import JobId, WorkerId
from upshot.jobs.scheduling import (
    ActiveJobs,
    QueuedJob,
    SlotCounter,
    cancel_queued,
    cannot_be_stopped,
    claim,
    no_such_job,
    with_stop_request,
)
from upshot.ports.jobs import Installation, JobQuery, JobUpdate, LogChunk, QueuePosition, WorkerCapacity
from upshot.ports.paging import Page
from upshot.storable import to_storable, to_storable_text


@dataclass(slots=True)
class _Log:
    pieces: deque[LogChunk] = field(default_factory=deque)
    kept_bytes: int = 0
    last: int = 0
    position: str | None = None


class MemoryJobs:
    """
    `JobStore` and `JobDesk` in memory.

    Args:
        executions: Where new jobs come from, and what their ends wake.
    """

    def __init__(self, executions: MemoryExecutions) -> None:
        self._executions = executions
        self._jobs = executions.jobs
        self._lock = executions.lock
        self._logs: dict[JobId, _Log] = {}

    # --- JobStore: claims -------------------------------------------------------------------------

    def claim_queued(self, capacity: WorkerCapacity, *, now: datetime, until: datetime) -> tuple[Job, ...]:
        """Lease due jobs that fit the offer, as STARTING: higher priority first, then older."""
        with self._lock:
            active = (one for one in self._jobs.values() if one.state.is_active)
            tally = SlotCounter(
                capacity, (ActiveJobs(one.queue, one.machine, one.automation, one.step_id) for one in active)
            )
            ids = tally.choose(sorted(_candidate(one) for one in self._jobs.values() if _fits(one, capacity, now)))
            return self._put(claim(self._jobs[one], capacity, now=now, until=until) for one in ids)

    def claim_abandoned(
        self, engine_ids: Collection[str], *, worker_id: WorkerId, now: datetime, until: datetime
    ) -> tuple[Job, ...]:
        """Lease active jobs of these engines whose lease has run out; state and engine stay."""
        with self._lock:
            found = [job for job in self._run_out(now) if job.engine_id in engine_ids]
            return self._take_over(found, worker_id, until)

    def claim_lost(self, *, seen_before: datetime, worker_id: WorkerId, now: datetime, until: datetime) -> tuple[Job, ...]:
        """Lease active jobs whose lease has run out and whose engine nobody has reached since then."""
        with self._lock:
            found = [job for job in self._run_out(now) if job.seen_at is not None and job.seen_at < seen_before]
            return self._take_over(found, worker_id, until)

    def _run_out(self, now: datetime) -> list[Job]:
        found = (one for one in self._jobs.values() if one.state.is_active and _leased_until(one) < now)
        return sorted(found, key=lambda one: (_leased_until(one), one.id))

    def _take_over(self, found: Iterable[Job], owner: WorkerId, until: datetime) -> tuple[Job, ...]:
        return self._put(replace(job, lease_owner_id=owner, lease_until=until, fence=job.fence + 1) for job in found)

    def _put(self, changed: Iterable[Job]) -> tuple[Job, ...]:
        put = tuple(changed)
        self._jobs.update((job.id, job) for job in put)
        return put

    # --- JobStore: states -------------------------------------------------------------------------

    def record(self, updates: Sequence[JobUpdate]) -> frozenset[JobId]:
        """Write states, accept events, wake executions; returns the ids whose state was refused."""
        with self._lock:
            held = {one.job.id for one in updates if self._is_held(one.job)}
            for one in updates:
                if one.job.id not in held:
                    continue
                self._put([_recorded(self._jobs[one.job.id], roundtrip(one.job))])
                for event in one.events:
                    self._executions.accept(replace(event, data=to_storable(event.data)))
                if one.wakes:
                    self._executions.wake(one.job.execution_id, one.job.finished_at or one.job.created_at)
            return frozenset({one.job.id for one in updates} - held)

    def _is_held(self, job: Job) -> bool:
        standing = self._jobs.get(job.id)
        return standing is not None and standing.fence == job.fence

    def renew(self, job_ids: Collection[JobId], *, worker_id: WorkerId, until: datetime, seen_at: datetime | None) -> frozenset[JobId]:
        """Prolong leases that the owner still holds; returns those ids."""
        with self._lock:
            held = [job for one in job_ids if (job := self._jobs.get(one)) and job.state.is_active]
            held = [job for job in held if job.lease_owner_id == worker_id]
            self._put(replace(job, lease_until=until, seen_at=seen_at or job.seen_at) for job in held)
            return frozenset(job.id for job in held)

    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        """End the leases of a worker that is known to be dead; returns how many."""
        with self._lock:
            owned = [job for job in self._jobs.values() if job.state.is_active and job.lease_owner_id == worker_id]
            return len(self._put(replace(job, lease_until=now) for job in owned if _leased_until(job) > now))

    # --- JobStore: wishes to stop -----------------------------------------------------------------

    def stop_requests(self, job_ids: Collection[JobId]) -> Mapping[JobId, str]:
        """Who asked, by id: a person, or the end of the execution that the job belongs to."""
        with self._lock:
            found = [job for one in job_ids if (job := self._jobs.get(one)) and not job.state.is_final]
            return {job.id: job.stop_requested_by for job in found if job.stop_requested_by is not None}

    def cancel_unneeded(self, now: datetime) -> int:
        """End queued jobs that nobody waits for; returns how many."""
        with self._lock:
            idle = [one for one in self._jobs.values() if one.state is JobState.QUEUED and one.stop_requested_at]
            return len([self._drop(job, now) for job in idle])

    def _drop(self, job: Job, now: datetime) -> Job:
        (ended,) = self._put([cancel_queued(job, now)])
        self._executions.wake(job.execution_id, now)
        return ended

    # --- JobStore: reading and logs ---------------------------------------------------------------

    def get(self, job_ids: Collection[JobId]) -> Mapping[JobId, Job]:
        """The jobs of these ids; those that do not exist are left out."""
        with self._lock:
            return {one: self._jobs[one] for one in job_ids if one in self._jobs}

    def append_log(self, job_id: JobId, text: str, *, position: str, now: datetime, keep_bytes: int) -> None:
        """Add a piece to a job's log, and remove its oldest pieces beyond so many bytes."""
        with self._lock:
            if job_id not in self._jobs:
                return
            log = self._logs.setdefault(job_id, _Log())
            log.position = to_storable_text(position)
            if text:
                log.last += 1
                log.pieces.append(LogChunk(log.last, to_storable_text(text)))
                log.kept_bytes += _size(log.pieces[-1])
            while log.kept_bytes > keep_bytes and len(log.pieces) > 1:
                log.kept_bytes -= _size(log.pieces.popleft())

    def log_position(self, job_id: JobId) -> str | None:
        """The position that the last piece was added with; None before the first."""
        with self._lock:
            return self._logs[job_id].position if job_id in self._logs else None

    # --- JobDesk ----------------------------------------------------------------------------------

    def find(self, job_id: JobId) -> Job | None:
        """One job."""
        with self._lock:
            return self._jobs.get(job_id)

    def page(self, query: JobQuery, *, cursor: str | None, limit: int) -> Page[Job]:
        """Jobs, newest first, without their outputs and log tails."""
        before = after_cursor(cursor) if cursor is not None else None
        with self._lock:
            found = [one for one in self._jobs.values() if _answers(one, query) and (before is None or one.id < before)]
        found.sort(key=lambda one: one.id, reverse=True)
        items = tuple(replace(one, outputs=None, log_tail="") for one in found[:limit])
        return Page(items, make_cursor(items[-1].id) if len(found) > limit else None)

    def queue_position(self, job: Job) -> QueuePosition | None:
        """Where a queued job stands; None when it is not queued."""
        with self._lock:
            standing = self._jobs.get(job.id)
            if standing is None or standing.state is not JobState.QUEUED:
                return None
            others = [one for one in self._jobs.values() if one.queue == standing.queue]
            return QueuePosition(
                ahead=sum(one.state is JobState.QUEUED and _turn(one) < _turn(standing) for one in others),
                active=sum(one.state.is_active for one in others),
            )

    def log_chunks(self, job_id: JobId, *, after: int, limit: int) -> tuple[LogChunk, ...]:
        """Pieces of the log after that number, in order."""
        with self._lock:
            log = self._logs.get(job_id, _Log())
            return tuple(piece for piece in log.pieces if piece.number > after)[:limit]

    def request_stop(self, job_id: JobId, requested_by: str, now: datetime) -> Job:
        """Ask a job to stop; a queued one is CANCELLED at once and wakes its execution."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                raise no_such_job(job_id)
            if job.state.is_final:
                raise cannot_be_stopped(job)
            (asked,) = self._put([with_stop_request(job, requested_by, now)])
            return self._drop(asked, now) if asked.state is JobState.QUEUED else asked

    def prune(self, *, finished_before: datetime) -> int:
        """Remove jobs and their logs that ended before then and whose execution is final; returns how many."""
        with self._lock:
            old = [
                one.id
                for one in self._jobs.values()
                if one.finished_at is not None
                and one.finished_at < finished_before
                and self._executions.has_ended(one.execution_id)
            ]
            for one in old:
                del self._jobs[one]
                self._logs.pop(one, None)
            return len(old)


def _turn(job: Job) -> tuple[int, str]:
    return rank_of(job), job.id


def _candidate(job: Job) -> QueuedJob:
    return QueuedJob(rank_of(job), job.id, job.queue, job.automation, job.step_id, job.concurrency)


def _fits(job: Job, offer: WorkerCapacity, now: datetime) -> bool:
    waits = job.state is JobState.QUEUED and job.stop_requested_at is None
    return (
        waits
        and (job.due_at is None or job.due_at <= now)
        and job.queue in offer.queues
        and job.backend in offer.engines
    )


def _leased_until(job: Job) -> datetime:
    assert job.lease_until is not None, "an active job has a lease"  # noqa: S101
    return job.lease_until


def _recorded(standing: Job, wanted: Job) -> Job:
    """What a record makes of a job: leases and wishes to stop are not its holder's to write."""
    goes_on = wanted.state.is_active
    return replace(
        wanted,
        lease_owner_id=standing.lease_owner_id if goes_on else None,
        lease_until=standing.lease_until if goes_on else None,
        seen_at=standing.seen_at,
        stop_requested_at=standing.stop_requested_at,
        stop_requested_by=standing.stop_requested_by,
    )


def _answers(job: Job, query: JobQuery) -> bool:
    return (
        query.state in (None, job.state)
        and query.queue in (None, job.queue)
        and query.automation in (None, job.automation)
        and query.execution_id in (None, job.execution_id)
    )


def _size(piece: LogChunk) -> int:
    return len(piece.text.encode())


class MemoryInstallation:
    """`InstallationStore` in memory."""

    def __init__(self) -> None:
        self._kept: Installation | None = None

    def get_or_create(self, create: Callable[[], Installation]) -> Installation:
        """The one that is kept; kept now if there was none."""
        self._kept = self._kept or create()
        return self._kept
