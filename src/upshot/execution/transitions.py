"""
State transitions of an execution, as pure functions.

    admit ──► RUNNING ─┬─ a step succeeded or was skipped ─► the next step; SUCCEEDED after the last
                       ├─ a step waits for a job ─► WAITING, without a due time ─► the job's end makes it due
                       ├─ destination or automation is busy ─► WAITING, without a due time ─► a worker with room
                       ├─ the automation is disabled ─► WAITING, without a due time ─► it is enabled again
                       ├─ an attempt failed, and another follows ─► WAITING, due later
                       ├─ a step failed ─► the on-failure steps, if any; then FAILED
                       └─ the lease expired ─► another worker claims it; the attempt counts as ambiguous
    WAITING and due, or for room ── a worker claims it ─► RUNNING
    WAITING, RUNNING ── a user cancels ─► CANCELLED
                       ├─ a newer execution has completed the step ─► the steps with `overtaken: send`; then SKIPPED
    FAILED, CANCELLED, overtaken ── a user retries ─► WAITING
    FAILED by its `if` ── a user retries, and the `if` is false now ─► SKIPPED
    a user replays an event ─► WAITING, due at once

No other transition leaves a final state. Every function gets the current time as an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from upshot.domain.automation import Automation
from upshot.domain.execution import Execution, ExecutionState, StepPhase, StepRecord
from upshot.errors import Conflict
from upshot.ids import EventId, ExecutionId, JobId, WorkerId
from upshot.ports.executions import Claim

MAX_LOSSES = 5  # number of workers lost during one step after which the step fails


def admit(
    execution_id: ExecutionId,
    automation: Automation,
    event_id: EventId,
    *,
    now: datetime,
    worker_id: WorkerId,
    until: datetime,
    alias_reference: str | None = None,
) -> Execution:
    """Create an execution that is leased from the start by the worker that matched its event."""
    return Execution(
        id=execution_id,
        automation=automation.name,
        revision_id=automation.revision_id,
        event_id=event_id,
        state=ExecutionState.RUNNING,
        created_at=now,
        steps=_records(automation),
        lease_owner_id=worker_id,
        lease_until=until,
        fence=1,
        alias_reference=alias_reference,
    )


def admit_final(
    execution_id: ExecutionId,
    automation: Automation,
    event_id: EventId,
    *,
    now: datetime,
    state: ExecutionState,
    reason: str,
) -> Execution:
    """Create an execution that ends before its first step: a stopped loop, or an `if` that failed."""
    return Execution(
        id=execution_id,
        automation=automation.name,
        revision_id=automation.revision_id,
        event_id=event_id,
        state=state,
        reason=reason,
        created_at=now,
        finished_at=now,
        steps=_skip_unfinished(_records(automation), "the execution did not start"),
    )


def skip_at_admission(execution: Execution, *, reason: str, now: datetime) -> Execution:
    """End an execution that the store must not admit, before its first step."""
    steps = _skip_unfinished(execution.steps, "the execution did not start")
    return _end(execution, ExecutionState.SKIPPED, reason=reason, steps=steps, now=now)


def replay(
    execution_id: ExecutionId, automation: Automation, event_id: EventId, *, now: datetime, user_name: str
) -> Execution:
    """
    Create an execution for an event that was matched before. It is due at once. It has no alias reference, so that no
    newer execution overtakes a replay, which a user requests on purpose.
    """
    return Execution(
        id=execution_id,
        automation=automation.name,
        revision_id=automation.revision_id,
        event_id=event_id,
        state=ExecutionState.WAITING,
        reason=f"replayed by {user_name}",
        due_at=now,
        created_at=now,
        steps=_records(automation),
    )


def _records(automation: Automation) -> tuple[StepRecord, ...]:
    phases = ((StepPhase.MAIN, automation.steps), (StepPhase.ON_FAILURE, automation.on_failure))
    return tuple(
        StepRecord(id=step.id, uses=step.uses, phase=phase, name=step.name, ignores_overtaking=step.ignores_overtaking)
        for phase, steps in phases
        for step in steps
    )


def claim(execution: Execution, *, worker_id: WorkerId, until: datetime) -> Claim:
    """Lease an execution that is due or whose lease has expired. The new fence rejects writes of earlier claims."""
    claimed = replace(
        execution,
        state=ExecutionState.RUNNING,
        reason=None,
        due_at=None,
        waits_for=None,
        lease_owner_id=worker_id,
        lease_until=until,
        fence=execution.fence + 1,
    )
    lost_by = execution.lease_owner_id if execution.state is ExecutionState.RUNNING else None
    return Claim(claimed, lost_by, execution.waits_for)


def is_claimable(execution: Execution, now: datetime, *, with_lost: bool = True) -> bool:
    """Return whether a worker may claim the execution: it is due or, `with_lost`, its lease has expired."""
    if execution.state is ExecutionState.WAITING:
        return execution.due_at is not None and execution.due_at <= now
    running = with_lost and execution.state is ExecutionState.RUNNING
    return running and execution.lease_until is not None and execution.lease_until < now


def failed_step(execution: Execution) -> StepRecord | None:
    """Return the main step that failed the execution, or None."""
    for record in execution.steps:
        if record.phase is StepPhase.MAIN and record.state is ExecutionState.FAILED and not record.continued:
            return record
    return None


def has_completed(records: Iterable[StepRecord], step_id: str) -> bool:
    """Return whether the step with this id has succeeded."""
    return any(record.id == step_id and record.state is ExecutionState.SUCCEEDED for record in records)


def next_step(execution: Execution) -> StepRecord | None:
    """Return the step to perform next, or None if every step that has to run has ended."""
    phase = StepPhase.ON_FAILURE if failed_step(execution) else StepPhase.MAIN
    for record in execution.steps:
        if record.phase is phase and not record.state.is_final:
            return record
    return None


# --- outcomes of an attempt ----------------------------------------------------------------------


def step_succeeded(
    execution: Execution, record: StepRecord, *, outputs: Mapping[str, Any], started_at: datetime, now: datetime
) -> Execution:
    """Store the outputs and continue with the next step."""
    succeeded = replace(
        record,
        state=ExecutionState.SUCCEEDED,
        reason=None,
        attempt_count=record.attempt_count + 1,
        outputs=outputs,
        started_at=record.started_at or started_at,
        finished_at=now,
    )
    return _advance(execution, succeeded, now)


def step_skipped(execution: Execution, record: StepRecord, *, reason: str, now: datetime) -> Execution:
    """Skip a step whose `if` is false, and continue with the next step."""
    return _advance(execution, replace(record, state=ExecutionState.SKIPPED, reason=reason, finished_at=now), now)


def step_overtaken(execution: Execution, record: StepRecord, *, by: ExecutionId, now: datetime) -> Execution:
    """Skip a step and those after it, except the steps that ignore overtaking."""
    index = execution.steps.index(record)
    reason = _overtaken(by)
    steps = tuple(
        replace(later, state=ExecutionState.SKIPPED, reason=reason, overtaken_by=by, finished_at=now)
        if later.phase is record.phase and not later.ignores_overtaking
        else later
        for later in execution.steps[index:]
    )
    return _advance(replace(execution, steps=(*execution.steps[:index], *steps)), None, now)


def _overtaken(by: ExecutionId) -> str:
    return f"overtaken by {by}"


def step_failed(
    execution: Execution,
    record: StepRecord,
    *,
    reason: str,
    continue_on_error: bool,
    is_invalid: bool = False,
    started_at: datetime,
    now: datetime,
) -> Execution:
    """Fail the step for good. The execution fails too, unless the step has `continue-on-error`."""
    failed = replace(
        record,
        state=ExecutionState.FAILED,
        reason=reason,
        attempt_count=record.attempt_count + 1,
        failures=record.failures + 1,
        is_invalid=is_invalid,
        continued=continue_on_error,
        started_at=record.started_at or started_at,
        finished_at=now,
    )
    return _advance(execution, failed, now)


def schedule_retry(
    execution: Execution,
    record: StepRecord,
    *,
    reason: str,
    wait_seconds: float,
    started_at: datetime,
    now: datetime,
    counts_as_failure: bool = True,
) -> Execution:
    """Release the lease after an attempt that did not succeed. The next attempt is due after the wait."""
    waiting = replace(
        record,
        reason=reason,
        attempt_count=record.attempt_count + 1,
        failures=record.failures + counts_as_failure,
        started_at=record.started_at or started_at,
    )
    return reschedule(_with_step(execution, waiting), reason=reason, due_at=now + timedelta(seconds=wait_seconds))


def step_deferred(
    execution: Execution, record: StepRecord, *, job_id: JobId, reason: str, started_at: datetime
) -> Execution:
    """Release the lease while a job runs. The execution has no due time until the end of the job sets one."""
    deferred = replace(record, job_id=job_id, reason=reason, started_at=record.started_at or started_at)
    return reschedule(_with_step(execution, deferred), reason=f"step {record.id}: {reason}", due_at=None)


def wait_for_room(execution: Execution, *, reason: str, waits_for: str) -> Execution:
    """Release the lease without an attempt, until a worker has room, or until the automation is enabled again."""
    return replace(reschedule(execution, reason=reason, due_at=None), waits_for=waits_for)


def reschedule(execution: Execution, *, reason: str, due_at: datetime | None) -> Execution:
    """Release the lease without an attempt. The execution is due at that time."""
    return replace(
        execution,
        state=ExecutionState.WAITING,
        reason=reason,
        due_at=due_at,
        waits_for=None,
        lease_owner_id=None,
        lease_until=None,
    )


def lease_lost(execution: Execution, *, worker_id: WorkerId, now: datetime) -> tuple[Execution, StepRecord | None]:
    """
    Count the attempt of a worker whose lease expired.

    Nobody knows whether the worker had sent anything, so the attempt is ambiguous. The step is attempted
    again with the same delivery id. The lost attempt does not count against the retry policy, but the
    step fails once `MAX_LOSSES` workers were lost during it.

    Returns:
        The execution in its next state, and the record of the step before the lost attempt was counted;
        None if no step was left to perform.
    """
    record = next_step(execution)
    if record is None:
        return _advance(execution, None, now), None
    lost = replace(
        record, attempt_count=record.attempt_count + 1, losses=record.losses + 1, started_at=record.started_at or now
    )
    if lost.losses < MAX_LOSSES:
        return _with_step(execution, lost), record
    reason = f"{lost.losses} workers were lost during this step, the last one was {worker_id}"
    return _advance(execution, replace(lost, state=ExecutionState.FAILED, reason=reason, finished_at=now), now), record


def fail_without_attempt(execution: Execution, *, reason: str, now: datetime) -> Execution:
    """Fail an execution, and its on-failure steps, because no worker can perform its automation."""
    record = next_step(execution)
    if record is not None:
        failed = replace(
            record,
            state=ExecutionState.FAILED,
            reason=reason,
            attempt_count=_attempts_started(record),
            is_invalid=True,
            finished_at=now,
        )
        execution = _with_step(execution, failed)
    steps = _skip_unfinished(execution.steps, "an earlier step failed")
    return _end(execution, ExecutionState.FAILED, reason=reason, steps=steps, now=now)


# --- actions of users ----------------------------------------------------------------------------


def ended_by_condition(execution: Execution) -> bool:
    """Return whether the execution failed before its first step, because its `if` could not be evaluated."""
    return execution.state is ExecutionState.FAILED and failed_step(execution) is None


def ended_as_invalid(execution: Execution) -> bool:
    """Return whether the execution failed because of the automation itself. An edit of its file can correct that."""
    failed = failed_step(execution)
    return ended_by_condition(execution) or (failed is not None and failed.is_invalid)


def retry_by_user(
    execution: Execution,
    now: datetime,
    *,
    force: bool = False,
    revision: Automation | None = None,
    attempt_counts: Mapping[str, int] | None = None,
) -> Execution:
    """
    Continue at the step that failed, was cancelled or overtaken, with the same delivery ids.

    Args:
        execution: The execution.
        now: The current time.
        force: Perform the repeated steps even if a newer execution has completed them.
        revision: Continue with this revision of the automation. Its steps before that step must be those of the
            execution. None keeps the revision.
        attempt_counts: Attempts that have a receipt, by the id of the step. Only needed with `revision`.

    Raises:
        Conflict: The execution is not failed, cancelled or overtaken, or the revision has other steps.
    """
    kept = kept_steps(execution)
    if revision is None:
        repeated = execution.steps[len(kept) :]
    else:
        steps = _records(revision)
        before = [(step.id, step.uses) for step in revision.steps[: len(kept)]]
        if len(revision.steps) <= len(kept) or before != [(record.id, record.uses) for record in kept]:
            raise Conflict(
                f"execution {execution.id} cannot continue with revision {revision.revision_id}, which has other "
                f"steps; {OTHER_STEPS_REMEDY}"
            )
        known = {record.id: record for record in execution.steps}
        repeated = tuple(
            replace(
                step,
                # A later attempt must not reuse the number of an earlier receipt or job.
                attempt_count=max(
                    known[step.id].attempt_count if step.id in known else 0, (attempt_counts or {}).get(step.id, 0)
                ),
                started_at=known[step.id].started_at if step.id in known else None,
            )
            for step in steps[len(kept) :]
        )
        execution = replace(execution, revision_id=revision.revision_id)
    fresh = tuple(
        StepRecord(
            record.id,
            record.uses,
            record.phase,
            record.name,
            attempt_count=record.attempt_count,
            started_at=record.started_at,
            ignores_overtaking=record.ignores_overtaking or force,
        )
        for record in repeated
    )
    retried = replace(execution, finished_at=None, steps=(*kept, *fresh))
    return reschedule(retried, reason="retried by a user", due_at=now)


OTHER_STEPS_REMEDY = (
    "answer the event again with `upshot events replay`, or keep the revision with `--revision original` "
    "(REST: `revision`)"
)


def kept_steps(execution: Execution) -> tuple[StepRecord, ...]:
    """
    Return the main steps that a retry does not repeat: those before the step that stopped the execution.

    Raises:
        Conflict: The execution is not failed, cancelled or overtaken.
    """
    stopped = (ExecutionState.FAILED, ExecutionState.CANCELLED)
    is_overtaken = execution.state is ExecutionState.SKIPPED and any(step.overtaken_by for step in execution.steps)
    if execution.state not in stopped and not is_overtaken:
        raise Conflict(
            f"execution {execution.id} is {execution.state.value}; only a failed or cancelled execution can be retried"
        )
    main = [record for record in execution.steps if record.phase is StepPhase.MAIN]
    for index, record in enumerate(main):
        if (record.state in stopped and not record.continued) or record.overtaken_by is not None:
            return tuple(main[:index])
    return ()  # the execution ended before its first step, or its on-failure steps were cancelled


def skip_by_condition(execution: Execution, *, reason: str, now: datetime) -> Execution:
    """End a retried execution whose `if` is now false."""
    return _end(execution, ExecutionState.SKIPPED, reason=reason, steps=execution.steps, now=now)


def cancel_by_user(execution: Execution, now: datetime, user_name: str) -> Execution:
    """
    Cancel an execution. A request that is in flight may still arrive, and its receipt is stored.

    Raises:
        Conflict: The execution has ended.
    """
    if execution.state.is_final:
        raise Conflict(f"execution {execution.id} is {execution.state.value} and cannot be cancelled")
    reason = f"cancelled by {user_name}"
    steps = tuple(
        record
        if record.state.is_final
        else replace(
            record,
            state=ExecutionState.CANCELLED,
            reason=reason,
            attempt_count=_attempts_started(record),
            finished_at=now,
        )
        for record in execution.steps
    )
    return _end(execution, ExecutionState.CANCELLED, reason=reason, steps=steps, now=now)


# --- shared parts --------------------------------------------------------------------------------


def _with_step(execution: Execution, record: StepRecord) -> Execution:
    return replace(execution, steps=tuple(record if old.id == record.id else old for old in execution.steps))


def _advance(execution: Execution, record: StepRecord | None, now: datetime) -> Execution:
    """Replace the record of a step. End the execution if no step is left to perform."""
    if record is not None:
        execution = _with_step(execution, record)
    if next_step(execution) is not None:
        return execution
    failed = failed_step(execution)
    if failed is None:
        steps = _skip_unfinished(execution.steps, "no step failed")
        overtaken_by = next((record.overtaken_by for record in execution.steps if record.overtaken_by), None)
        if overtaken_by is not None:
            return _end(execution, ExecutionState.SKIPPED, reason=_overtaken(overtaken_by), steps=steps, now=now)
        return _end(execution, ExecutionState.SUCCEEDED, reason=None, steps=steps, now=now)
    steps = _skip_unfinished(execution.steps, "an earlier step failed")
    return _end(execution, ExecutionState.FAILED, reason=f"step {failed.id}: {failed.reason}", steps=steps, now=now)


def _skip_unfinished(records: Iterable[StepRecord], reason: str) -> tuple[StepRecord, ...]:
    return tuple(
        record if record.state.is_final else replace(record, state=ExecutionState.SKIPPED, reason=reason)
        for record in records
    )


def _end(
    execution: Execution, state: ExecutionState, *, reason: str | None, steps: tuple[StepRecord, ...], now: datetime
) -> Execution:
    return replace(
        execution,
        state=state,
        reason=reason,
        steps=steps,
        due_at=None,
        waits_for=None,
        finished_at=now,
        lease_owner_id=None,
        lease_until=None,
    )


def _attempts_started(record: StepRecord) -> int:
    """
    Count the attempts, including the one that waits for a job.

    The job ends with its attempt. A job's id derives from the number of the attempt, so the next attempt
    needs a higher number to get a new job.
    """
    return record.attempt_count + (record.job_id is not None)
