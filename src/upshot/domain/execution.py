"""Executions: one automation (a given revision of it) answering one event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from upshot.ids import DeliveryId, EventId, ExecutionId, JobId, RevisionId, WorkerId


class ExecutionState(StrEnum):
    """Where an execution, or one of its steps, stands. CLI, API and pages print these words."""

    WAITING = "waiting"  #: due at a known time, or held for a reason; nobody works on it
    RUNNING = "running"  #: one worker holds the lease
    SUCCEEDED = "succeeded"  #: every step that had to run has succeeded; final
    FAILED = "failed"  #: a step gave up; final until a person retries it
    CANCELLED = "cancelled"  #: a person stopped it; final until a person retries it
    SKIPPED = "skipped"  #: not answered, for the reason that is kept (a loop, a step's `if`); final

    @property
    def is_final(self) -> bool:
        """Nothing moves it on but a person."""
        return self not in (ExecutionState.WAITING, ExecutionState.RUNNING)


class AttemptState(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"  #: the receiver said no; given up
    UNREACHABLE = "unreachable"  #: not delivered for now; tried again
    AMBIGUOUS = "ambiguous"  #: sent, or perhaps sent, and no answer read; tried again, same delivery id
    BLOCKED = "blocked"  #: our egress rule said no; given up
    INVALID = "invalid"  #: a template or setting was wrong for this event; given up
    UNMET = "unmet"  #: a `require` did not hold; given up
    FAILED = "failed"  #: its job ended without success; given up


class StepPhase(StrEnum):
    """Which list of the automation a step belongs to."""

    MAIN = "main"  #: `steps`
    ON_FAILURE = "on-failure"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Where one step of an execution stands, and what it gave."""

    id: str
    uses: str
    phase: StepPhase = StepPhase.MAIN
    state: ExecutionState = ExecutionState.WAITING
    reason: str | None = None
    attempts: int = 0  #: made so far, over all rounds
    failures: int = 0  #: failed attempts of this round that count against the retry policy
    losses: int = 0  #: attempts of this round whose worker was lost
    continued: bool = False  #: failed, but `continue-on-error` let the execution go on
    outputs: Mapping[str, Any] | None = None  #: what later steps read as `steps.ID.outputs`
    started_at: datetime | None = None
    finished_at: datetime | None = None
    job_id: JobId | None = None  #: id of the job that it waits for, or that it was


@dataclass(frozen=True, slots=True)
class Execution:
    """One automation answering one event."""

    id: ExecutionId
    automation: str
    revision_id: RevisionId
    event_id: EventId  #: id of the event
    state: ExecutionState
    created_at: datetime
    steps: tuple[StepRecord, ...] = ()  #: main steps in order, then the on-failure steps that were due
    reason: str | None = None  #: why it waits, failed, was cancelled or skipped
    due_at: datetime | None = None  #: when a waiting execution goes on; None when it is not waiting
    finished_at: datetime | None = None
    lease_owner_id: WorkerId | None = None  #: worker that works on it
    lease_until: datetime | None = None  #: after this the sweeper takes it back
    fence: int = 0  #: grows with every claim; a write with an older one is refused

    @property
    def awaited_job_id(self) -> JobId | None:
        """Id of the job whose end wakes it; None when it waits for something else, or not at all."""
        if self.state is not ExecutionState.WAITING or self.due_at is not None:
            return None
        return next((step.job_id for step in self.steps if step.job_id and not step.state.is_final), None)


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    The kept proof of one attempt: what was sent, what came back; secrets are masked.

    `request` of an HTTP action: method, url, headers, body (text), body_bytes. `response`: status,
    headers, body (text, first 16 KB), body_bytes, truncated. Other actions keep what they changed.
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
    wait_seconds: float | None = None  #: until the next attempt; None when there is none
    timings: Mapping[str, float] | None = None  #: seconds of each part: render, connect, answer
