"""Executions in memory, with the same guarantees as in SQL, for tests and `upshot.testing`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, make_cursor
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.serialization.jobs import roundtrip
from upshot.domain.event import Event
from upshot.domain.execution import Execution, ExecutionState, Receipt
from upshot.domain.job import Job
from upshot.errors import NotFound
from upshot.execution import transitions
from upshot.execution.root_budget import counted_by_root, skip_over_budget, warning_text
from upshot.ids import EventId, ExecutionId, JobId, WorkerId, first_id, has_part
from upshot.jobs.transitions import with_stop_request
from upshot.ports.executions import (
    Admission,
    AdmissionResult,
    Answer,
    Claim,
    Due,
    ExecutionAdmin,
    ExecutionQuery,
    ExecutionStore,
    ExecutionUpdate,
    OrderedStep,
    RootBudget,
)
from upshot.ports.jobs import END_OF_EXECUTION
from upshot.ports.paging import Page


class MemoryExecutions(ExecutionStore, ExecutionAdmin):
    """
    `ExecutionStore` and `ExecutionAdmin` in memory.

    Args:
        events: The events that executions answer.
    """

    def __init__(self, events: MemoryEvents) -> None:
        self._events = events
        self._executions: dict[ExecutionId, Execution] = {}
        self._receipts: dict[tuple[ExecutionId, str, int], Receipt] = {}
        self._notified_at: dict[ExecutionId, datetime] = {}
        self.jobs: dict[JobId, Job] = {}  #: shared with `MemoryJobs`
        self.lock = threading.RLock()  #: shared with `MemoryJobs`

    # --- ExecutionStore ---------------------------------------------------------------------------

    @override
    def admit(self, admissions: Sequence[Admission], now: datetime) -> AdmissionResult:
        with self.lock:
            known = self._events.get([admission.event_id for admission in admissions])
            unknown = frozenset(admission.event_id for admission in admissions) - known.keys()
            admissions = [admission for admission in admissions if admission.event_id in known]
            executions = {execution.id: execution for admission in admissions for execution in admission.executions}
            skipped, exhausted = self._skip_over_budget(admissions, now)
            new = {key: execution for key, execution in executions.items() if key not in self._executions}
            self._executions.update(new | skipped)
            for key in skipped:
                del new[key]
            self._events.mark_matched(
                {admission.event_id: [execution.id for execution in admission.executions] for admission in admissions},
                now,
            )
            failures = [event for admission in admissions for event in admission.events]
            self._events.add([event for event in failures if event.chain[-1].execution_id in new], now)
            return AdmissionResult(frozenset(new), exhausted, frozenset(unknown))

    @override
    def reject(self, event_id: EventId, reason: str, now: datetime) -> bool:
        with self.lock:
            stored = self._events.find(event_id)
            is_new = stored is not None and stored.matched_at is None
            if is_new:
                self._events.mark_matched({event_id: ()}, now)
                self._events.set_warning(event_id, reason)
            return is_new

    def _skip_over_budget(
        self, admissions: Sequence[Admission], now: datetime
    ) -> tuple[dict[ExecutionId, Execution], tuple[RootBudget, ...]]:
        skipped: dict[ExecutionId, Execution] = {}
        exhausted: list[RootBudget] = []
        for budget, counted in counted_by_root(admissions).items():
            counts = self._events.root_counts(budget.root_event_id)
            new = [execution for execution in counted if execution.id not in self._executions]
            over = skip_over_budget(budget, new, used=counts.executions, now=now)
            counts.executions += len(new) - len(over)
            skipped |= over
            if over and self._events.set_warning(budget.root_event_id, warning_text(budget)):
                exhausted.append(budget)
        return skipped, tuple(exhausted)

    @override
    def claim(
        self,
        execution_ids: Collection[ExecutionId],
        *,
        worker_id: WorkerId,
        now: datetime,
        until: datetime,
        with_lost: bool = True,
    ) -> tuple[Claim, ...]:
        with self.lock:
            claims = []
            for execution_id in sorted(set(execution_ids)):
                execution = self._executions.get(execution_id)
                if execution is not None and transitions.is_claimable(execution, now, with_lost=with_lost):
                    claims.append(transitions.claim(execution, worker_id=worker_id, until=until))
                    self._put(claims[-1].execution)
            return tuple(claims)

    @override
    def claim_waiting(self, counts: Mapping[str, int], *, worker_id: WorkerId, until: datetime) -> tuple[Claim, ...]:
        with self.lock:
            claims = []
            for waits_for, count in counts.items():
                waiting = [execution for execution in self._executions.values() if execution.waits_for == waits_for]
                waiting.sort(key=lambda execution: (execution.event_id, execution.id))
                claims += [
                    transitions.claim(execution, worker_id=worker_id, until=until) for execution in waiting[:count]
                ]
            for claim in claims:
                self._put(claim.execution)
            return tuple(claims)

    @override
    def waits(self) -> tuple[str, ...]:
        with self.lock:
            return tuple(
                sorted({execution.waits_for for execution in self._executions.values() if execution.waits_for})
            )

    @override
    def record(self, updates: Sequence[ExecutionUpdate]) -> frozenset[ExecutionId]:
        with self.lock:
            rejected = set()
            for update in updates:
                execution = update.execution
                for receipt in update.receipts:
                    self._receipts.setdefault((receipt.execution_id, receipt.step_id, receipt.attempt), receipt)
                stored = self._executions.get(execution.id)
                if stored is None or stored.fence != execution.fence:
                    rejected.add(execution.id)
                    continue
                self._put(execution)
                for event in update.events:
                    self.accept(event)
                for job in update.jobs:
                    self.jobs.setdefault(job.id, roundtrip(job))
                if execution.finished_at is not None:
                    self._request_stop_of_jobs(execution.id, execution.finished_at)
                awaited = self.jobs.get(execution.awaited_job_id) if execution.awaited_job_id else None
                if awaited is not None and awaited.finished_at is not None:
                    self.wake(execution.id, awaited.finished_at)
            return frozenset(rejected)

    def _request_stop_of_jobs(self, execution_id: ExecutionId, ended_at: datetime) -> None:
        for job in list(self.jobs.values()):
            if job.execution_id == execution_id and not job.state.is_final:
                self.jobs[job.id] = with_stop_request(job, END_OF_EXECUTION, ended_at)

    @override
    def renew(self, execution_ids: Collection[ExecutionId], *, worker_id: WorkerId, until: datetime) -> None:
        with self.lock:
            for execution_id in execution_ids:
                execution = self._executions.get(execution_id)
                if execution and execution.lease_owner_id == worker_id and execution.state is ExecutionState.RUNNING:
                    self._executions[execution_id] = replace(execution, lease_until=until)

    @override
    def take_due(
        self, *, now: datetime, notified_before: datetime, limit: int, with_lost: bool = True
    ) -> tuple[Due, ...]:
        with self.lock:
            claimable = [
                execution
                for execution in self._executions.values()
                if transitions.is_claimable(execution, now, with_lost=with_lost)
                and (execution.id not in self._notified_at or self._notified_at[execution.id] < notified_before)
            ]
            claimable.sort(key=lambda execution: (execution.due_at or execution.lease_until or now, execution.id))
            due = tuple(
                Due(execution.id, notified_before=execution.id in self._notified_at) for execution in claimable[:limit]
            )
            self._notified_at.update((execution.execution_id, now) for execution in due)
            return due

    def _put(self, execution: Execution) -> None:
        self._executions[execution.id] = execution
        self._notified_at.pop(execution.id, None)

    # --- ExecutionOrder ---------------------------------------------------------------------------

    @override
    def find_overtaking(self, steps: Sequence[OrderedStep]) -> tuple[ExecutionId | None, ...]:
        with self.lock:
            return tuple(self._newest_completed(step) for step in steps)

    def _newest_completed(self, step: OrderedStep) -> ExecutionId | None:
        newer = (
            execution
            for execution in self._executions.values()
            if (execution.automation, execution.alias_reference) == (step.automation, step.alias_reference)
            and execution.event_id > step.event_id
            and transitions.has_completed(execution.steps, step.step_id)
        )
        newest = max(newer, key=lambda execution: execution.event_id, default=None)
        return newest.id if newest else None

    # --- ExecutionAdmin ---------------------------------------------------------------------------

    @override
    def find(self, execution_id: ExecutionId) -> tuple[Execution, tuple[Receipt, ...]] | None:
        with self.lock:
            execution = self._executions.get(execution_id)
            if execution is None:
                return None
            receipts = [receipt for key, receipt in self._receipts.items() if key[0] == execution_id]
            return execution, tuple(sorted(receipts, key=lambda receipt: (receipt.started_at, receipt.attempt)))

    @override
    def page(self, query: ExecutionQuery, *, cursor: str | None, limit: int) -> Page[Execution]:
        before = decode_cursor(cursor) if cursor is not None else None
        with self.lock:
            found = sorted(
                (
                    execution
                    for execution in self._executions.values()
                    if (before is None or execution.id < before)
                    and query.event_id in (None, execution.event_id)
                    and query.automation in (None, execution.automation)
                    and (not query.states or execution.state in query.states)
                    and (query.since is None or (execution.finished_at or execution.created_at) >= query.since)
                    and (query.until is None or (execution.finished_at or execution.created_at) < query.until)
                    and (query.id_part is None or has_part(execution.id, query.id_part))
                ),
                key=lambda execution: execution.id,
                reverse=True,
            )
        items = tuple(found[:limit])
        return Page(items, make_cursor(items[-1].id) if len(found) > limit else None)

    @override
    def count_by_time(self, since: datetime, bucket: timedelta) -> Mapping[tuple[int, ExecutionState], int]:
        first = first_id("exe", since)
        with self.lock:
            return Counter(
                ((execution.created_at - since) // bucket, execution.state)
                for execution in self._executions.values()
                if execution.id >= first and execution.created_at >= since
            )

    @override
    def answers(self, event_ids: Collection[EventId]) -> Mapping[EventId, tuple[Answer, ...]]:
        with self.lock:
            found = sorted(self._executions.values(), key=lambda execution: execution.id)
        answers = {
            event_id: tuple(Answer(item.id, item.automation) for item in found if item.event_id == event_id)
            for event_id in event_ids
        }
        return {event_id: found for event_id, found in answers.items() if found}

    @override
    def amend(self, execution_id: ExecutionId, change: Callable[[Execution], Execution]) -> Execution:
        with self.lock:
            before = self._executions.get(execution_id)
            if before is None:
                raise NotFound(f"there is no execution {execution_id!r}; see `upshot executions list`")
            after = replace(change(before), fence=before.fence + 1)
            self._put(after)
            # A retried execution gets new jobs, so its old ones must stop, too.
            if ended_at := after.finished_at or before.finished_at:
                self._request_stop_of_jobs(execution_id, ended_at)
            return after

    @override
    def add(self, executions: Sequence[Execution]) -> None:
        with self.lock:
            for execution in executions:
                self._put(execution)
                self._events.mark_matched({execution.event_id: [execution.id]}, execution.created_at)

    @override
    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        with self.lock:
            leased = [
                execution
                for execution in self._executions.values()
                if execution.lease_owner_id == worker_id
                and execution.state is ExecutionState.RUNNING
                and execution.lease_until is not None
                and execution.lease_until > now
            ]
            for execution in leased:
                self._executions[execution.id] = replace(execution, lease_until=now)
            return len(leased)

    # --- for MemoryDestinations -------------------------------------------------------------------

    def count_waits(self) -> Counter[str]:
        """Count the executions that wait for room, by what they wait for."""
        with self.lock:
            return Counter(execution.waits_for for execution in self._executions.values() if execution.waits_for)

    # --- for MemoryJobs ---------------------------------------------------------------------------

    def wake(self, execution_id: ExecutionId, due_at: datetime) -> None:
        """Make an execution due if it waits without a due time."""
        execution = self._executions.get(execution_id)
        if execution is not None and execution.state is ExecutionState.WAITING and execution.due_at is None:
            self._put(replace(execution, due_at=due_at))

    def accept(self, event: Event) -> None:
        """Accept an event, published at its own time."""
        self._events.add([event], event.time)

    def has_ended(self, execution_id: ExecutionId) -> bool:
        """Return whether the execution is final."""
        return self._executions[execution_id].state.is_final
