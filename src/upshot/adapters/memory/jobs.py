"""Jobs and the installation in memory, for tests and `upshot.testing`. They behave like those in SQL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, make_cursor
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.serialization.jobs import rank_of, roundtrip
from upshot.domain.job import Job, JobState
from upshot.errors import NotFound
from upshot.ids import JobId, WorkerId, has_part
from upshot.jobs.scheduling import ActiveJobs, QueuedJob, SlotCounter
from upshot.jobs.transitions import adopt, cancel_queued, claim, request_stop
from upshot.ports.jobs import (
    Installation,
    InstallationStore,
    JobAdmin,
    JobQuery,
    JobStore,
    JobUpdate,
    LogChunk,
    QueuePosition,
    WorkerCapacity,
)
from upshot.ports.paging import Page
from upshot.storable import to_storable
from upshot.unicode_text import to_storable_text


@dataclass(slots=True)
class _Log:
    chunks: deque[LogChunk] = field(default_factory=deque)
    stored_bytes: int = 0
    last_number: int = 0
    position: str | None = None


class MemoryJobs(JobStore, JobAdmin):
    """
    Stores jobs in memory.

    Args:
        executions: Stores the executions that wait for jobs, and new jobs with them.
    """

    def __init__(self, executions: MemoryExecutions) -> None:
        self._executions = executions
        self._jobs = executions.jobs
        self._lock = executions.lock
        self._logs: dict[JobId, _Log] = {}

    # --- claims -----------------------------------------------------------------------------------

    @override
    def claim_queued(self, capacity: WorkerCapacity, *, now: datetime, until: datetime) -> tuple[Job, ...]:
        with self._lock:
            active = (job for job in self._jobs.values() if job.state.is_active)
            slots = SlotCounter(
                capacity, (ActiveJobs(job.queue, job.machine, job.automation, job.step_id) for job in active)
            )
            due = (job for job in self._jobs.values() if _is_claimable(job, capacity, now))
            chosen = slots.choose(
                sorted(
                    QueuedJob(rank_of(job), job.id, job.queue, job.automation, job.step_id, job.concurrency)
                    for job in due
                )
            )
            return self._put(claim(self._jobs[job_id], capacity, now=now, until=until) for job_id in chosen)

    @override
    def claim_abandoned(
        self, engine_ids: Collection[str], *, worker_id: WorkerId, now: datetime, until: datetime
    ) -> tuple[Job, ...]:
        with self._lock:
            abandoned = [job for job in self._with_expired_lease(now) if job.engine_id in engine_ids]
            return self._put(adopt(job, worker_id, until=until) for job in abandoned)

    @override
    def claim_lost(
        self, *, seen_before: datetime, worker_id: WorkerId, now: datetime, until: datetime
    ) -> tuple[Job, ...]:
        with self._lock:
            lost = [
                job for job in self._with_expired_lease(now) if job.seen_at is not None and job.seen_at < seen_before
            ]
            return self._put(adopt(job, worker_id, until=until) for job in lost)

    def _with_expired_lease(self, now: datetime) -> list[Job]:
        expired = (job for job in self._jobs.values() if job.state.is_active and _leased_until(job) < now)
        return sorted(expired, key=lambda job: (_leased_until(job), job.id))

    def _put(self, jobs: Iterable[Job]) -> tuple[Job, ...]:
        changed = tuple(jobs)
        self._jobs.update((job.id, job) for job in changed)
        return changed

    # --- states -----------------------------------------------------------------------------------

    @override
    def record(self, updates: Sequence[JobUpdate]) -> frozenset[JobId]:
        with self._lock:
            stored = self.get([update.job.id for update in updates])
            refused = frozenset(
                update.job.id
                for update in updates
                if update.job.id not in stored or stored[update.job.id].fence != update.job.fence
            )
            for update in updates:
                if update.job.id in refused:
                    continue
                self._put([_without_lease_changes(self._jobs[update.job.id], roundtrip(update.job))])
                for event in update.events:
                    self._executions.accept(replace(event, data=to_storable(event.data)))
                if update.wakes_execution:
                    self._executions.wake(update.job.execution_id, update.job.finished_at or update.job.created_at)
            return refused

    @override
    def renew(
        self, job_ids: Collection[JobId], *, worker_id: WorkerId, until: datetime, seen_at: datetime | None
    ) -> frozenset[JobId]:
        with self._lock:
            found = (self._jobs[job_id] for job_id in job_ids if job_id in self._jobs)
            leased = [job for job in found if job.state.is_active and job.lease_owner_id == worker_id]
            self._put(replace(job, lease_until=until, seen_at=seen_at or job.seen_at) for job in leased)
            return frozenset(job.id for job in leased)

    @override
    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        with self._lock:
            leased = [job for job in self._jobs.values() if job.state.is_active and job.lease_owner_id == worker_id]
            return len(self._put(replace(job, lease_until=now) for job in leased if _leased_until(job) > now))

    # --- stop requests ----------------------------------------------------------------------------

    @override
    def stop_requests(self, job_ids: Collection[JobId]) -> Mapping[JobId, str]:
        with self._lock:
            found = [job for job_id in job_ids if (job := self._jobs.get(job_id)) and not job.state.is_final]
            return {job.id: job.stop_requested_by for job in found if job.stop_requested_by is not None}

    @override
    def cancel_unneeded(self, now: datetime) -> int:
        with self._lock:
            queued = (job for job in self._jobs.values() if job.state is JobState.QUEUED and job.stop_requested_at)
            cancelled = self._put([cancel_queued(job, now) for job in queued])
            for job in cancelled:
                self._executions.wake(job.execution_id, now)
            return len(cancelled)

    @override
    def request_stop(self, job_id: JobId, requested_by: str, now: datetime) -> Job:
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                raise NotFound(f"there is no job {job_id!r}; see `upshot jobs list`")
            (job,) = self._put([request_stop(job, requested_by, now)])
            if job.state.is_final:
                self._executions.wake(job.execution_id, now)
            return job

    # --- reading ----------------------------------------------------------------------------------

    @override
    def get(self, job_ids: Collection[JobId]) -> Mapping[JobId, Job]:
        with self._lock:
            return {job_id: self._jobs[job_id] for job_id in job_ids if job_id in self._jobs}

    @override
    def find(self, job_id: JobId) -> Job | None:
        with self._lock:
            return self._jobs.get(job_id)

    @override
    def page(self, query: JobQuery, *, cursor: str | None, limit: int) -> Page[Job]:
        before = decode_cursor(cursor) if cursor is not None else None
        with self._lock:
            found = [
                job
                for job in self._jobs.values()
                if (before is None or job.id < before)
                and (not query.states or job.state in query.states)
                and (query.since is None or (job.finished_at or job.created_at) >= query.since)
                and (query.id_part is None or has_part(job.id, query.id_part))
                and query.queue in (None, job.queue)
                and query.automation in (None, job.automation)
                and query.execution_id in (None, job.execution_id)
            ]
        found.sort(key=lambda job: job.id, reverse=True)
        items = tuple(replace(job, outputs=None, log_tail="") for job in found[:limit])
        return Page(items, make_cursor(items[-1].id) if len(found) > limit else None)

    @override
    def queue_position(self, job: Job) -> QueuePosition | None:
        with self._lock:
            stored = self._jobs.get(job.id)
            if stored is None or stored.state is not JobState.QUEUED:
                return None
            own = (rank_of(stored), stored.id)
            others = [other for other in self._jobs.values() if other.queue == stored.queue]
            return QueuePosition(
                ahead=sum(other.state is JobState.QUEUED and (rank_of(other), other.id) < own for other in others),
                active=sum(other.state.is_active for other in others),
            )

    # --- logs -------------------------------------------------------------------------------------

    @override
    def append_log(self, job_id: JobId, text: str, *, position: str, now: datetime, keep_bytes: int) -> None:
        with self._lock:
            if job_id not in self._jobs:
                return
            log = self._logs.setdefault(job_id, _Log())
            log.position = to_storable_text(position)
            if text:
                log.last_number += 1
                log.chunks.append(LogChunk(log.last_number, to_storable_text(text)))
                log.stored_bytes += len(log.chunks[-1].text.encode())
            while log.stored_bytes > keep_bytes and len(log.chunks) > 1:
                log.stored_bytes -= len(log.chunks.popleft().text.encode())

    @override
    def log_position(self, job_id: JobId) -> str | None:
        with self._lock:
            return self._logs[job_id].position if job_id in self._logs else None

    @override
    def log_chunks(self, job_id: JobId, *, after: int, limit: int) -> tuple[LogChunk, ...]:
        with self._lock:
            chunks = self._logs.get(job_id, _Log()).chunks
            return tuple(chunk for chunk in chunks if chunk.number > after)[:limit]

    # --- retention --------------------------------------------------------------------------------

    @override
    def prune(self, *, finished_before: datetime) -> int:
        with self._lock:
            old = [
                job.id
                for job in self._jobs.values()
                if job.finished_at is not None
                and job.finished_at < finished_before
                and self._executions.has_ended(job.execution_id)
            ]
            for job_id in old:
                del self._jobs[job_id]
                self._logs.pop(job_id, None)
            return len(old)


def _is_claimable(job: Job, capacity: WorkerCapacity, now: datetime) -> bool:
    return (
        job.state is JobState.QUEUED
        and job.stop_requested_at is None
        and (job.due_at is None or job.due_at <= now)
        and job.queue in capacity.queues
        and job.backend in capacity.engine_ids
    )


def _leased_until(job: Job) -> datetime:
    assert job.lease_until is not None, "an active job has a lease"  # noqa: S101
    return job.lease_until


def _without_lease_changes(stored: Job, recorded: Job) -> Job:
    """Return what `record` stores: leases and stop requests are not written by the worker that holds the job."""
    is_active = recorded.state.is_active
    return replace(
        recorded,
        lease_owner_id=stored.lease_owner_id if is_active else None,
        lease_until=stored.lease_until if is_active else None,
        seen_at=stored.seen_at,
        stop_requested_at=stored.stop_requested_at,
        stop_requested_by=stored.stop_requested_by,
    )


class MemoryInstallation(InstallationStore):
    """Stores the installation in memory."""

    def __init__(self) -> None:
        self._installation: Installation | None = None

    @override
    def get_or_create(self, create: Callable[[], Installation]) -> Installation:
        self._installation = self._installation or create()
        return self._installation
