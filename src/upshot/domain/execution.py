"""Executions: one revision of an automation answers one event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from upshot.ids import DeliveryId, EventId, ExecutionId, JobId, RevisionId, WorkerId, derive_execution_id


class ExecutionState(StrEnum):
    """State of an execution, or of one of its steps. The CLI, the API and pages use these words."""

    WAITING = "waiting"  #: due at a known time, or waiting for a stored reason; no worker holds the lease
    RUNNING = "running"  #: one worker holds the lease
    SUCCEEDED = "succeeded"  #: every step that had to run has succeeded; final
    FAILED = "failed"  #: a step gave up; final until a user retries the execution
    CANCELLED = "cancelled"  #: a user cancelled it; final until a user retries the execution
    SKIPPED = "skipped"  #: not executed, for a stored reason (a loop, an `if`, a newer execution); final

    @property
    def is_final(self) -> bool:
        """Whether only a user can change the state."""
        return self not in (ExecutionState.WAITING, ExecutionState.RUNNING)


class AttemptState(StrEnum):
    """Result of an attempt."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"  #: the receiver rejected the request; not retried
    UNREACHABLE = "unreachable"  #: the request was not delivered; retried
    UNAVAILABLE = "unavailable"  #: the receiver answered that it cannot process the request now (5xx, 429); retried
    AMBIGUOUS = "ambiguous"  #: perhaps sent, but no response was read; retried with the same delivery id
    BLOCKED = "blocked"  #: an egress rule rejected the destination; not retried
    INVALID = "invalid"  #: a template or a setting is invalid for this event; not retried
    UNMET = "unmet"  #: the condition of a `require` is false; not retried
    FAILED = "failed"  #: the job of the step did not succeed; not retried


class StepPhase(StrEnum):
    """The list of the automation that a step belongs to."""

    MAIN = "main"  #: `steps`
    ON_FAILURE = "on-failure"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """
    State and outputs of one step of an execution.

    A retry by a user starts a new round of attempts.
    """

    id: str
    uses: str
    phase: StepPhase = StepPhase.MAIN
    name: str = ""  #: for people; empty if the author gave none
    state: ExecutionState = ExecutionState.WAITING
    reason: str | None = None
    attempt_count: int = 0  #: number of attempts so far, over all rounds
    failures: int = 0  #: failed attempts of this round that count against the retry policy
    losses: int = 0  #: attempts of this round whose worker was lost
    is_invalid: bool = False  #: the step failed because of the automation itself: a template, an input, or its action
    continued: bool = False  #: the step failed, but `continue-on-error` let the execution continue
    outputs: Mapping[str, Any] | None = None  #: later steps read them as `steps.ID.outputs`
    started_at: datetime | None = None
    finished_at: datetime | None = None
    job_id: JobId | None = None  #: the job that the step waits for or waited for
    ignores_overtaking: bool = False  #: performed although a newer execution has completed it
    overtaken_by: ExecutionId | None = None  #: the newer execution because of which the step was skipped


@dataclass(frozen=True, slots=True)
class Execution:
    """One revision of an automation answering one event."""

    id: ExecutionId
    automation: str
    revision_id: RevisionId
    event_id: EventId
    state: ExecutionState
    created_at: datetime
    steps: tuple[StepRecord, ...] = ()  #: main steps in order, then the on-failure steps that were due
    reason: str | None = None  #: why the execution waits, failed, was cancelled or was skipped
    due_at: datetime | None = None  #: when a waiting execution continues; None for other states
    #: The destination or `automation:NAME` that has no room for the execution, or `disabled:NAME`.
    waits_for: str | None = None
    finished_at: datetime | None = None
    lease_owner_id: WorkerId | None = None  #: worker that holds the lease
    lease_until: datetime | None = None  #: after this time, the sweeper lets another worker claim the execution
    fence: int = 0  #: increases with every claim; a write with an older fence is rejected
    #: `model/churn:production` if it answers an event of this alias. Newer executions with the same reference can
    #: overtake it. None for other events.
    alias_reference: str | None = None

    @property
    def is_replay(self) -> bool:
        """Whether a user requested the execution after the event was matched."""
        return self.id != derive_execution_id(self.event_id, self.automation)

    @property
    def awaited_job_id(self) -> JobId | None:
        """Id of the job that the execution waits for, or None."""
        if self.state is not ExecutionState.WAITING or self.due_at is not None or self.waits_for is not None:
            return None
        return next((step.job_id for step in self.steps if step.job_id and not step.state.is_final), None)


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    The stored record of one attempt: the request, the response and the result. Secrets are masked.

    `request` of an HTTP action: method, url, headers, body (text), body_bytes. `response`: status,
    headers, body (text, first 16 KB), body_bytes, truncated, and `stopped` if the response ends
    early. Other actions store their changes.
    """

    execution_id: ExecutionId
    step_id: str
    attempt: int  #: counted from 1 over all rounds of the step
    state: AttemptState
    delivery_id: DeliveryId
    started_at: datetime
    took_seconds: float
    worker_id: WorkerId
    request: Mapping[str, Any] | None = None
    response: Mapping[str, Any] | None = None
    error: str | None = None
    wait_seconds: float | None = None  #: delay before the next attempt; None if there is none
    timings: Mapping[str, float] | None = None  #: seconds of each part: render, connect, answer
