"""
How an execution moves on: pure functions from one state to the next.

    admitted ─► running ─┬─ step succeeded or skipped ─► next step … ─► succeeded
                         ├─ step is held by a job ─► waiting ─► its end wakes it ─► claimed: running
                         ├─ step failed for now ─► waiting (due later) ─► claimed: running
                         ├─ step failed for good ─► on-failure steps ─► failed
                         └─ lease lost ─► claimed by another: the attempt counts as ambiguous
    failed, cancelled ─ a person retries ─► waiting        waiting, running ─ a person cancels ─► cancelled

Nothing else leads out of a final state. Every function takes the present moment, none looks at a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from upshot.domain.automation import Automation, Step
from upshot.domain.execution import Execution, ExecutionState, StepRecord
from upshot.errors import Conflict

MAX_LOSSES = 5  # workers that one step may take down with it before it is given up
MAIN = "main"
ON_FAILURE = "on-failure"


def admit(
    execution_id: str, automation: Automation, event: str, *, now: datetime, owner: str, until: datetime
) -> Execution:
    """A new execution, leased from the first moment by the worker that matched its event."""
    return Execution(
        id=execution_id,
        automation=automation.name,
        revision=automation.revision,
        event_id=event,
        state=ExecutionState.RUNNING,
        created_at=now,
        steps=_records(automation),
        lease_owner=owner,
        lease_until=until,
        fence=1,
    )


def admit_final(
    execution_id: str, automation: Automation, event: str, *, now: datetime, state: ExecutionState, reason: str
) -> Execution:
    """An answer that ends before its first step, visibly: a loop that is stopped, an `if` that failed."""
    skipped = tuple(
        replace(record, state=ExecutionState.SKIPPED, reason="the execution did not begin")
        for record in _records(automation)
    )
    return Execution(
        id=execution_id,
        automation=automation.name,
        revision=automation.revision,
        event_id=event,
        state=state,
        reason=reason,
        created_at=now,
        finished_at=now,
        steps=skipped,
    )


def _records(automation: Automation) -> tuple[StepRecord, ...]:
    def record(step: Step, phase: str) -> StepRecord:
        return StepRecord(id=step.id, uses=step.uses, phase=phase)

    return (
        *(record(step, MAIN) for step in automation.steps),
        *(record(step, ON_FAILURE) for step in automation.on_failure),
    )


def failed_step(execution: Execution) -> StepRecord | None:
    """The main step that failed the execution; None while none has."""
    for record in execution.steps:
        if record.phase == MAIN and record.state is ExecutionState.FAILED and not record.continued:
            return record
    return None


def next_step(execution: Execution) -> StepRecord | None:
    """The step whose turn it is; None when every step that has to run has ended."""
    phase = ON_FAILURE if failed_step(execution) else MAIN
    for record in execution.steps:
        if record.phase == phase and not record.state.is_final:
            return record
    return None


def _with_step(execution: Execution, record: StepRecord) -> Execution:
    return replace(execution, steps=tuple(record if old.id == record.id else old for old in execution.steps))


def _settled(execution: Execution, now: datetime) -> Execution:
    """Move on: still running while a step has its turn, final when none has."""
    if next_step(execution) is not None:
        return execution
    failure = failed_step(execution)
    idle = "nothing failed" if failure is None else "an earlier step failed"
    steps = tuple(
        record if record.state.is_final else replace(record, state=ExecutionState.SKIPPED, reason=idle)
        for record in execution.steps
    )
    return replace(
        execution,
        state=ExecutionState.SUCCEEDED if failure is None else ExecutionState.FAILED,
        reason=None if failure is None else f"step {failure.id}: {failure.reason}",
        steps=steps,
        due_at=None,
        finished_at=now,
        lease_owner=None,
        lease_until=None,
    )


def step_succeeded(
    execution: Execution, record: StepRecord, *, outputs: Mapping[str, Any], started_at: datetime, now: datetime
) -> Execution:
    """The attempt succeeded: its outputs are kept and the next step has its turn."""
    done = replace(
        record,
        state=ExecutionState.SUCCEEDED,
        reason=None,
        attempts=record.attempts + 1,
        outputs=outputs,
        started_at=record.started_at or started_at,
        finished_at=now,
    )
    return _settled(_with_step(execution, done), now)


def step_skipped(execution: Execution, record: StepRecord, *, reason: str, now: datetime) -> Execution:
    """The step's `if` does not hold: the next step has its turn."""
    return _settled(
        _with_step(execution, replace(record, state=ExecutionState.SKIPPED, reason=reason, finished_at=now)), now
    )


def step_failed(
    execution: Execution,
    record: StepRecord,
    *,
    reason: str,
    continue_on_error: bool,
    started_at: datetime,
    now: datetime,
) -> Execution:
    """The step is given up: the execution fails, unless the step says to go on."""
    failed = replace(
        record,
        state=ExecutionState.FAILED,
        reason=reason,
        attempts=record.attempts + 1,
        failures=record.failures + 1,
        continued=continue_on_error,
        started_at=record.started_at or started_at,
        finished_at=now,
    )
    return _settled(_with_step(execution, failed), now)


def step_waits(
    execution: Execution, record: StepRecord, *, reason: str, wait_seconds: float, started_at: datetime, now: datetime
) -> Execution:
    """The attempt failed and another will follow; the lease is given back until then."""
    waiting = replace(
        record,
        reason=reason,
        attempts=record.attempts + 1,
        failures=record.failures + 1,
        started_at=record.started_at or started_at,
    )
    return reschedule(_with_step(execution, waiting), reason=reason, due_at=now + timedelta(seconds=wait_seconds))


def step_held(execution: Execution, record: StepRecord, *, job: str, reason: str, started_at: datetime) -> Execution:
    """The step goes on outside: the lease is given back, and nothing is due until the job's end wakes it."""
    held = replace(record, job_id=job, reason=reason, started_at=record.started_at or started_at)
    return replace(
        _with_step(execution, held),
        state=ExecutionState.WAITING,
        reason=f"step {record.id}: {reason}",
        due_at=None,
        lease_owner=None,
        lease_until=None,
    )


def reschedule(execution: Execution, *, reason: str, due_at: datetime) -> Execution:
    """Nothing was attempted; the lease is given back and the execution is due then."""
    return replace(
        execution,
        state=ExecutionState.WAITING,
        reason=reason,
        due_at=due_at,
        lease_owner=None,
        lease_until=None,
    )


def lease_lost(execution: Execution, *, worker: str, now: datetime) -> tuple[Execution, StepRecord | None]:
    """
    Count the attempt of a worker that fell silent.

    Whether it had sent anything cannot be known, so the attempt is ambiguous: the step is tried
    again with the same delivery id, without counting against the retry policy, until it has
    taken `MAX_LOSSES` workers down with it.

    Returns:
        The execution as it goes on, and the record of the step whose attempt was lost, as it was
        before; None when no step had its turn.
    """
    record = next_step(execution)
    if record is None:
        return _settled(execution, now), None
    lost = replace(record, attempts=record.attempts + 1, losses=record.losses + 1, started_at=record.started_at or now)
    if lost.losses < MAX_LOSSES:
        return _with_step(execution, lost), record
    reason = f"{lost.losses} workers were lost during this step, the last one {worker}"
    given_up = replace(lost, state=ExecutionState.FAILED, reason=reason, finished_at=now)
    return _settled(_with_step(execution, given_up), now), record


def fail_without_attempt(execution: Execution, *, reason: str, now: datetime) -> Execution:
    """No worker here can carry it out at all, on-failure steps included."""
    record = next_step(execution)
    steps = tuple(
        replace(step, state=ExecutionState.FAILED, reason=reason, attempts=_attempts_begun(step), finished_at=now)
        if record is not None and step.id == record.id
        else step
        if step.state.is_final
        else replace(step, state=ExecutionState.SKIPPED, reason="an earlier step failed")
        for step in execution.steps
    )
    return replace(
        execution,
        state=ExecutionState.FAILED,
        reason=reason,
        steps=steps,
        due_at=None,
        finished_at=now,
        lease_owner=None,
        lease_until=None,
    )


def retry_by_person(execution: Execution, now: datetime) -> Execution:
    """
    Go on from the step that failed or was cancelled, with the same delivery ids.

    Raises:
        Conflict: The execution is not failed or cancelled.
    """
    if execution.state not in (ExecutionState.FAILED, ExecutionState.CANCELLED):
        raise Conflict(
            f"execution {execution.id} is {execution.state.value}; only a failed or cancelled one can be retried"
        )

    stopped = (ExecutionState.FAILED, ExecutionState.CANCELLED)
    done: list[StepRecord] = []
    for record in execution.steps:
        if record.phase != MAIN or (record.state in stopped and not record.continued):
            break
        done.append(record)
    if len(done) == sum(record.phase == MAIN for record in execution.steps):
        done = []  # it ended before its first step

    def again(record: StepRecord) -> StepRecord:
        return StepRecord(
            id=record.id,
            uses=record.uses,
            phase=record.phase,
            attempts=record.attempts,
            started_at=record.started_at,
        )

    return replace(
        execution,
        state=ExecutionState.WAITING,
        reason="retried by a person",
        due_at=now,
        finished_at=None,
        lease_owner=None,
        lease_until=None,
        steps=(*done, *(again(record) for record in execution.steps[len(done) :])),
    )


def cancel_by_person(execution: Execution, now: datetime, who: str) -> Execution:
    """
    Stop an execution; what is being sent at this moment may still arrive, and its receipt is kept.

    Raises:
        Conflict: The execution has ended.
    """
    if execution.state.is_final:
        raise Conflict(f"execution {execution.id} is {execution.state.value} and cannot be cancelled")
    return replace(
        execution,
        state=ExecutionState.CANCELLED,
        reason=f"cancelled by {who}",
        due_at=None,
        finished_at=now,
        lease_owner=None,
        lease_until=None,
        steps=tuple(
            record
            if record.state.is_final
            else replace(
                record,
                state=ExecutionState.CANCELLED,
                reason=f"cancelled by {who}",
                attempts=_attempts_begun(record),
                finished_at=now,
            )
            for record in execution.steps
        ),
    )


def _attempts_begun(record: StepRecord) -> int:
    """Attempts, the one included that waited for a job: its job ends with it, and the next has one of its own."""
    return record.attempts + (record.job_id is not None)
