"""Executions, their receipts, and the stored revisions of automations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as AnyCollection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from upshot.domain.automation import ActiveRevision, ActiveWatch, Automation, FileFault
from upshot.domain.event import Event
from upshot.domain.execution import Execution, ExecutionState, Receipt
from upshot.domain.job import Job
from upshot.ids import EventId, ExecutionId, RevisionId, WorkerId
from upshot.ports.paging import Page


@dataclass(frozen=True, slots=True)
class RootBudget:
    """How many executions one event may lead to, directly and through other events."""

    root_event_id: EventId
    max_executions: int


@dataclass(frozen=True, slots=True)
class Admission:
    """A matched event with the executions that answer it; there may be none."""

    event_id: EventId
    executions: tuple[Execution, ...]  #: leased by the worker that matched the event, or final from the start
    events: tuple[
        Event, ...
    ] = ()  #: events of executions that failed from the start; each is the last cause of its event
    budget: RootBudget | None = None  #: None if the executions need not be counted


@dataclass(frozen=True, slots=True)
class AdmissionResult:
    """What a store did with the executions of a batch."""

    accepted: frozenset[ExecutionId]  #: new executions; left out are those that exist, and those over their budget
    exhausted: tuple[RootBudget, ...] = ()  #: budgets that were exceeded for the first time
    unknown: frozenset[EventId] = frozenset()  #: events that were never accepted; their executions are left out


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution that a worker has claimed, with a new fence."""

    execution: Execution
    lost_by_worker_id: WorkerId | None  #: worker whose lease had expired; None if the execution was waiting
    waited_for: str | None = None  #: the destination or automation that it waited for


@dataclass(frozen=True, slots=True)
class Due:
    """An execution that a worker should claim."""

    execution_id: ExecutionId
    notified_before: bool  #: workers were notified of it already, and none has claimed it


@dataclass(frozen=True, slots=True)
class ExecutionUpdate:
    """The new state of an execution, with the receipts of its attempts. The state is written if the fence matches."""

    execution: Execution
    receipts: tuple[Receipt, ...] = ()  #: stored even if the state is rejected, because the attempt was made
    events: tuple[Event, ...] = ()  #: accepted together with the state, such as the event of a failure
    jobs: tuple[Job, ...] = ()  #: queued together with the state


@dataclass(frozen=True, slots=True)
class ExecutionQuery:
    """Which executions to list; None means any."""

    event_id: EventId | None = None
    automation: str | None = None
    states: frozenset[ExecutionState] = frozenset()  #: any of them; empty: any state
    since: datetime | None = None  #: of the end of an execution, or of its creation if it has not ended
    until: datetime | None = None  #: the same; executions at exactly this time are left out
    id_part: str | None = None  #: the beginning or the end of the id


@dataclass(frozen=True, slots=True)
class Answer:
    """An execution that answers an event."""

    execution_id: ExecutionId
    automation: str


@dataclass(frozen=True, slots=True)
class OrderedStep:
    """A step of an execution that answers an event of an alias."""

    automation: str
    alias_reference: str  #: `model/churn:production`
    event_id: EventId
    step_id: str


class ExecutionOrder(Protocol):
    """The order of the executions that answer the events of one alias."""

    def find_overtaking(self, steps: Sequence[OrderedStep]) -> tuple[ExecutionId | None, ...]:
        """
        Find newer executions that have completed these steps.

        Returns:
            For each step the execution of the same automation that answers the newest event of the same alias
            after the step's event, of those in which this step has succeeded; None if there is none.
        """
        ...


class ExecutionStore(ExecutionOrder, Protocol):
    """Executions and their receipts, as workers use them."""

    def admit(self, admissions: Sequence[Admission], now: datetime) -> AdmissionResult:
        """
        Insert the executions of a batch and mark its events as matched, in one transaction.

        An execution that exists, because its event arrived twice, stays unchanged. An execution over the budget of
        its admission is inserted as skipped (see `upshot.execution.root_budget`).
        """
        ...

    def reject(self, event_id: EventId, reason: str, now: datetime) -> bool:
        """
        Mark an event as matched that cannot be answered, with the reason as its warning.

        Returns:
            Whether the event was unmatched. Otherwise nothing changes.
        """
        ...

    def claim(
        self,
        execution_ids: AnyCollection[ExecutionId],
        *,
        worker_id: WorkerId,
        now: datetime,
        until: datetime,
        with_lost: bool = True,
    ) -> tuple[Claim, ...]:
        """Lease the executions that are due or, `with_lost`, whose lease has expired. Leave out the others."""
        ...

    def claim_waiting(self, counts: Mapping[str, int], *, worker_id: WorkerId, until: datetime) -> tuple[Claim, ...]:
        """
        Lease executions that wait for room, those of the oldest events first.

        Args:
            counts: Maximum number by what the executions wait for (see `Execution.waits_for`).
            worker_id: The worker that has room.
            until: End of the lease.
        """
        ...

    def waits(self) -> tuple[str, ...]:
        """Return the destinations and automations for which executions wait."""
        ...

    def record(self, updates: Sequence[ExecutionUpdate]) -> frozenset[ExecutionId]:
        """
        Write the states and receipts of a batch, in one transaction.

        Returns:
            Ids whose state was rejected because another worker or a user has changed the execution. Their
            receipts are stored.
        """
        ...

    def renew(self, execution_ids: AnyCollection[ExecutionId], *, worker_id: WorkerId, until: datetime) -> None:
        """Extend the leases that the worker still holds."""
        ...

    def take_due(
        self, *, now: datetime, notified_before: datetime, limit: int, with_lost: bool = True
    ) -> tuple[Due, ...]:
        """
        Take the executions that are due or whose lease has expired, and mark them as notified now.

        Args:
            now: The current time.
            notified_before: Leave out executions that were marked since then.
            limit: Maximum number. The executions that have been due for the longest time come first.
            with_lost: Include the executions whose lease has expired.
        """
        ...


class ExecutionAdmin(ExecutionOrder, Protocol):
    """Executions and their receipts, as users read and change them."""

    def find(self, execution_id: ExecutionId) -> tuple[Execution, tuple[Receipt, ...]] | None:
        """Return an execution with all its receipts, ordered by their start."""
        ...

    def page(self, query: ExecutionQuery, *, cursor: str | None, limit: int) -> Page[Execution]:
        """Return a page of executions; those of the newest event come first."""
        ...

    def count_by_time(self, since: datetime, bucket: timedelta) -> Mapping[tuple[int, ExecutionState], int]:
        """
        Count the executions of events since a time.

        Returns:
            Counts by the number of the bucket in which the execution was created, from 0, and its state.
        """
        ...

    def answers(self, event_ids: AnyCollection[EventId]) -> Mapping[EventId, tuple[Answer, ...]]:
        """Return the executions that answer these events. Leave out events that no automation answers."""
        ...

    def amend(self, execution_id: ExecutionId, change: Callable[[Execution], Execution]) -> Execution:
        """
        Change an execution in one transaction, and increase its fence. Later writes of a worker are rejected.

        Raises:
            NotFound: There is no such execution. An error that `change` raises is passed on. In both
                cases nothing is written.
        """
        ...

    def add(self, executions: Sequence[Execution]) -> None:
        """Insert executions that a user has asked for. No worker holds them."""
        ...

    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        """End the leases of a worker that is known to be dead, and return their number."""
        ...


class RevisionStore(Protocol):
    """Every revision of every automation that was ever loaded. An execution finishes with its own revision."""

    def save(self, automations: Iterable[Automation], now: datetime) -> None:
        """Store the revisions that are not stored yet."""
        ...

    def get(self, name: str, revision_id: RevisionId) -> tuple[Mapping[str, Any], Mapping[str, str], str] | None:
        """Return the document as plain data, its body files and its path; None if the revision is not stored."""
        ...

    def activate(self, automations: Iterable[Automation], faults: Iterable[FileFault], now: datetime) -> None:
        """
        Store the automations that answer events from now on, their revisions, and the files that have errors now.

        A fault that is stored already, without an end, keeps its beginning. All other faults without an end get one.
        """
        ...

    def active(self) -> tuple[ActiveRevision, ...]:
        """Return the automations of the last `activate`, by any worker, in the order of names."""
        ...

    def watches(self) -> tuple[ActiveWatch, ...]:
        """Return what the automations of the last `activate` watch metrics for, in the order of names."""
        ...

    def faults_at(self, time: datetime) -> tuple[FileFault, ...]:
        """Return the files that had errors at a time, by path."""
        ...
