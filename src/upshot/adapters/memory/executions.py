"""Executions, revisions, workers in memory: the same promises as in SQL, for tests and `upshot.testing`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from upshot.adapters.cursor import after_cursor, make_cursor
from upshot.adapters.serialization.jobs import roundtrip
from upshot.domain.automation import Automation
from upshot.domain.event import Event
from upshot.domain.execution import Execution, ExecutionState, Receipt
from upshot.domain.job import Job
from upshot.errors import NotFound
from upshot.ids import EventId, ExecutionId, JobId, RevisionId, WorkerId
from upshot.jobs.scheduling import with_stop_request
from upshot.ports.executions import Admission, Claim, Due, ExecutionQuery, ExecutionUpdate
from upshot.ports.jobs import END_OF_EXECUTION
from upshot.ports.paging import Page
from upshot.ports.workers import WorkerRecord


class AcceptsEvents(Protocol):
    """The event store's side of what is written here."""

    def add(self, events: Sequence[Event], now: datetime) -> object:
        """Accept events."""
        ...

    def mark_matched(self, answers: Mapping[EventId, Iterable[ExecutionId]], now: datetime) -> None:
        """Mark events as matched, and keep the ids of the executions that answer each."""
        ...


class MemoryExecutions:
    """
    `ExecutionStore` and `ExecutionDesk` in memory.

    Args:
        events: Told which events are matched.
    """

    def __init__(self, events: AcceptsEvents) -> None:
        self._events = events
        self._executions: dict[ExecutionId, Execution] = {}
        self._receipts: dict[tuple[ExecutionId, str, int], Receipt] = {}
        self._rung_at: dict[ExecutionId, datetime] = {}
        self.jobs: dict[JobId, Job] = {}  #: for `MemoryJobs`, which shares the lock, too
        self.lock = threading.RLock()

    # --- ExecutionStore ---------------------------------------------------------------------------

    def admit(self, admissions: Sequence[Admission], now: datetime) -> frozenset[ExecutionId]:
        """Insert the executions of a batch and mark its events as matched; returns the ids that are new."""
        with self.lock:
            wanted = {one.id: one for admission in admissions for one in admission.executions}
            new = {name: one for name, one in wanted.items() if name not in self._executions}
            self._executions.update(new)
            self._events.mark_matched(
                {admission.event_id: [one.id for one in admission.executions] for admission in admissions}, now
            )
            caused = [event for admission in admissions for event in admission.events]
            self._events.add([event for event in caused if event.chain[-1].execution_id in new], now)
            return frozenset(new)

    def claim(self, execution_ids: Collection[ExecutionId], *, worker_id: WorkerId, now: datetime, until: datetime) -> tuple[Claim, ...]:
        """Lease those of the executions that are due or whose lease has run out."""
        with self.lock:
            claims = []
            for one in sorted(set(execution_ids)):
                before = self._executions.get(one)
                if before is None or not _is_free(before, now):
                    continue
                leased = replace(
                    before,
                    state=ExecutionState.RUNNING,
                    reason=None,
                    due_at=None,
                    lease_owner_id=worker_id,
                    lease_until=until,
                    fence=before.fence + 1,
                )
                self._put(leased)
                lost_by = before.lease_owner_id if before.state is ExecutionState.RUNNING else None
                claims.append(Claim(leased, lost_by))
            return tuple(claims)

    def record(self, progress: Sequence[ExecutionUpdate]) -> frozenset[ExecutionId]:
        """Write states and receipts of a batch; returns the ids whose state was refused."""
        with self.lock:
            refused = set()
            for one in progress:
                for receipt in one.receipts:
                    self._receipts.setdefault((receipt.execution_id, receipt.step_id, receipt.attempt), receipt)
                standing = self._executions.get(one.execution.id)
                if standing is None or standing.fence != one.execution.fence:
                    refused.add(one.execution.id)
                else:
                    self._put(one.execution)
                    for event in one.events:
                        self._events.add([event], event.time)
                    self._see_to_jobs(one)
            return frozenset(refused)

    def _see_to_jobs(self, progress: ExecutionUpdate) -> None:
        """Queue new jobs; ask those of an ended execution to stop; let nothing wait for a job that has ended."""
        for job in progress.jobs:
            self.jobs.setdefault(job.id, roundtrip(job))
        execution = progress.execution
        if execution.finished_at is not None:
            self._ask_jobs_of(execution.id, execution.finished_at)
        waited_for = self.jobs.get(execution.awaited_job_id or JobId(""))
        if waited_for is not None and waited_for.finished_at is not None:
            self.wake(execution.id, waited_for.finished_at)

    def _ask_jobs_of(self, execution_id: ExecutionId, ended_at: datetime) -> None:
        for job in list(self.jobs.values()):
            if job.execution_id == execution_id and not job.state.is_final:
                self.jobs[job.id] = with_stop_request(job, END_OF_EXECUTION, ended_at)

    def renew(self, execution_ids: Collection[ExecutionId], *, worker_id: WorkerId, until: datetime) -> None:
        """Prolong the leases that the owner still holds."""
        with self.lock:
            for one in execution_ids:
                execution = self._executions.get(one)
                if execution and execution.lease_owner_id == worker_id and execution.state is ExecutionState.RUNNING:
                    self._executions[one] = replace(execution, lease_until=until)

    def take_due(self, *, now: datetime, notified_before: datetime, limit: int) -> tuple[Due, ...]:
        """Take for ringing: executions that are due, or whose lease has run out; marked as rung now."""
        with self.lock:
            free = [
                one
                for one in self._executions.values()
                if _is_free(one, now) and (one.id not in self._rung_at or self._rung_at[one.id] < notified_before)
            ]
            free.sort(key=lambda one: (one.due_at or one.lease_until or now, one.id))
            due = tuple(Due(one.id, notified_before=one.id in self._rung_at) for one in free[:limit])
            self._rung_at.update((one.execution_id, now) for one in due)
            return due

    def _put(self, execution: Execution) -> None:
        self._executions[execution.id] = execution
        self._rung_at.pop(execution.id, None)

    # --- ExecutionDesk ----------------------------------------------------------------------------

    def find(self, execution_id: ExecutionId) -> tuple[Execution, tuple[Receipt, ...]] | None:
        """One execution with all its receipts, in the order of their start."""
        with self.lock:
            execution = self._executions.get(execution_id)
            if execution is None:
                return None
            kept = [receipt for key, receipt in self._receipts.items() if key[0] == execution_id]
            return execution, tuple(sorted(kept, key=lambda receipt: (receipt.started_at, receipt.attempt)))

    def page(self, query: ExecutionQuery, *, cursor: str | None, limit: int) -> Page[Execution]:
        """Executions, newest event first."""
        before = after_cursor(cursor) if cursor is not None else None
        with self.lock:
            found = sorted(
                (
                    one
                    for one in self._executions.values()
                    if (before is None or one.id < before)
                    and query.event_id in (None, one.event_id)
                    and query.automation in (None, one.automation)
                    and query.state in (None, one.state)
                ),
                key=lambda one: one.id,
                reverse=True,
            )
        items = tuple(found[:limit])
        return Page(items, make_cursor(items[-1].id) if len(found) > limit else None)

    def amend(self, execution_id: ExecutionId, change: Callable[[Execution], Execution]) -> Execution:
        """Change one execution in one transaction; its fence grows."""
        with self.lock:
            before = self._executions.get(execution_id)
            if before is None:
                raise NotFound(f"there is no execution {execution_id!r}; see `upshot executions list`")
            after = replace(change(before), fence=before.fence + 1)
            self._put(after)
            if ended_at := after.finished_at or before.finished_at:  # retried: it shall have new jobs, not both
                self._ask_jobs_of(execution_id, ended_at)
            return after

    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        """End the leases of a worker that is known to be dead; returns how many."""
        with self.lock:
            held = [
                one
                for one in self._executions.values()
                if one.lease_owner_id == worker_id
                and one.state is ExecutionState.RUNNING
                and one.lease_until is not None
                and one.lease_until > now
            ]
            for one in held:
                self._executions[one.id] = replace(one, lease_until=now)
            return len(held)

    def prune(self, *, receipts_before: datetime) -> int:
        """Remove receipts older than that of executions that are final; returns how many."""
        with self.lock:
            old = [
                key
                for key, receipt in self._receipts.items()
                if receipt.started_at < receipts_before and self._executions[key[0]].state.is_final
            ]
            for key in old:
                del self._receipts[key]
            return len(old)

    # --- for MemoryJobs ---------------------------------------------------------------------------

    def wake(self, execution_id: ExecutionId, due_at: datetime) -> None:
        """Make an execution due that waits without a due time."""
        execution = self._executions.get(execution_id)
        if execution is not None and execution.state is ExecutionState.WAITING and execution.due_at is None:
            self._put(replace(execution, due_at=due_at))

    def accept(self, event: Event) -> None:
        """Accept an event of its moment."""
        self._events.add([event], event.time)

    def has_ended(self, execution_id: ExecutionId) -> bool:
        """The execution is final."""
        return self._executions[execution_id].state.is_final


def _is_free(execution: Execution, now: datetime) -> bool:
    if execution.state is ExecutionState.WAITING:
        return execution.due_at is not None and execution.due_at <= now
    running = execution.state is ExecutionState.RUNNING
    return running and execution.lease_until is not None and execution.lease_until < now


class MemoryRevisions:
    """`RevisionStore` in memory."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, RevisionId], tuple[Mapping[str, Any], Mapping[str, str], str]] = {}

    def save(self, automations: Iterable[Automation], now: datetime) -> None:
        """Keep the revisions that are not kept yet."""
        for one in automations:
            self._kept.setdefault((one.name, one.revision_id), (one.source, one.body_files, one.path))

    def get(self, name: str, revision_id: RevisionId) -> tuple[Mapping[str, Any], Mapping[str, str], str] | None:
        """The document as plain data, its body files and its path; None when it was never kept."""
        return self._kept.get((name, revision_id))


class MemoryWorkers:
    """`WorkerStore` in memory."""

    def __init__(self) -> None:
        self._workers: dict[WorkerId, WorkerRecord] = {}

    def heartbeat(self, worker: WorkerRecord) -> None:
        """Say that the worker is alive."""
        self._workers[worker.id] = worker

    def deregister(self, worker_id: WorkerId) -> None:
        """Say that the worker has stopped."""
        self._workers.pop(worker_id, None)

    def list(self, *, seen_since: datetime) -> tuple[WorkerRecord, ...]:
        """Workers that were seen since then, the oldest first."""
        seen = [worker for worker in self._workers.values() if worker.seen_at >= seen_since]
        return tuple(sorted(seen, key=lambda worker: worker.started_at))
