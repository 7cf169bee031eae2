"""Executions, their receipts, and the revisions of automations that they go by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as AnyCollection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from upshot.domain.automation import Automation
from upshot.domain.event import Event
from upshot.domain.execution import Execution, ExecutionState, Receipt
from upshot.domain.job import Job
from upshot.ids import EventId, ExecutionId, RevisionId, WorkerId
from upshot.ports.paging import Page


@dataclass(frozen=True, slots=True)
class Admission:
    """What matching made of one event: its executions, leased by the worker that matched it, maybe none."""

    event_id: EventId
    executions: tuple[Execution, ...]
    events: tuple[Event, ...] = ()  #: accepted with those that failed from the start; each names its execution last


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution that this worker now holds, with a new fence."""

    execution: Execution
    lost_by_worker_id: WorkerId | None  #: worker whose lease had run out; None when it was waiting


@dataclass(frozen=True, slots=True)
class Due:
    """An execution that somebody should see to."""

    execution_id: ExecutionId
    notified_before: bool  #: the doorbell was rung for it already, and nobody came


@dataclass(frozen=True, slots=True)
class ExecutionUpdate:
    """The new state of an execution and the receipts that prove it; written if the fence still holds."""

    execution: Execution
    receipts: tuple[Receipt, ...] = ()  #: kept in any case, for what was sent was sent
    events: tuple[Event, ...] = ()  #: accepted together with the state: what the execution's end gives rise to
    jobs: tuple[Job, ...] = ()  #: queued together with the state, if the fence holds


@dataclass(frozen=True, slots=True)
class ExecutionQuery:
    """Which executions to list; None means any."""

    event_id: EventId | None = None
    automation: str | None = None
    state: ExecutionState | None = None


class ExecutionStore(Protocol):
    """Executions and their receipts."""

    def admit(self, admissions: Sequence[Admission], now: datetime) -> frozenset[ExecutionId]:
        """
        Insert the executions of a batch and mark its events as matched, in one transaction.

        Returns:
            Ids of the executions that are new; the others existed (the event came twice) and stay as they are.
        """
        ...

    def claim(self, execution_ids: AnyCollection[ExecutionId], *, worker_id: WorkerId, now: datetime, until: datetime) -> tuple[Claim, ...]:
        """Lease those of the executions that are due or whose lease has run out; the others are left out."""
        ...

    def record(self, progress: Sequence[ExecutionUpdate]) -> frozenset[ExecutionId]:
        """
        Write states and receipts of a batch, in one transaction.

        Returns:
            Ids whose state was refused, since another claim or a person came between; their receipts are kept.
        """
        ...

    def renew(self, execution_ids: AnyCollection[ExecutionId], *, worker_id: WorkerId, until: datetime) -> None:
        """Prolong the leases that the owner still holds."""
        ...

    def take_due(self, *, now: datetime, notified_before: datetime, limit: int) -> tuple[Due, ...]:
        """
        Take for ringing: executions that are due, or whose lease has run out; marked as rung now.

        Args:
            now: The present moment.
            rung_before: Leave out those that were rung since then.
            limit: At most so many, the longest due first.
        """
        ...


class ExecutionAdmin(Protocol):
    """What people ask about executions and do to them."""

    def find(self, execution_id: ExecutionId) -> tuple[Execution, tuple[Receipt, ...]] | None:
        """One execution with all its receipts, in the order of their start."""
        ...

    def page(self, query: ExecutionQuery, *, cursor: str | None, limit: int) -> Page[Execution]:
        """Executions, newest event first."""
        ...

    def amend(self, execution_id: ExecutionId, change: Callable[[Execution], Execution]) -> Execution:
        """
        Change one execution in one transaction; its fence grows, so a worker that holds it is refused.

        Raises:
            NotFound: No such execution. What `change` raises comes through, and nothing is written.
        """
        ...

    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        """End the leases of a worker that is known to be dead; returns how many."""
        ...

    def prune(self, *, receipts_before: datetime) -> int:
        """Remove receipts older than that of executions that are final; returns how many."""
        ...


class RevisionStore(Protocol):
    """Every revision of every automation that was ever loaded, so that an execution finishes with its own."""

    def save(self, automations: Iterable[Automation], now: datetime) -> None:
        """Keep the revisions that are not kept yet."""
        ...

    def get(self, name: str, revision_id: RevisionId) -> tuple[Mapping[str, Any], Mapping[str, str], str] | None:
        """The document as plain data, its body files and its path; None when it was never kept."""
        ...
