"""An execution with its steps, and the receipts of their attempts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_optional_time, format_time
from upshot.domain.execution import Execution, ExecutionState, Receipt, StepRecord


class AttemptJson(TypedDict):
    """The receipt of one attempt of a step; secrets are masked."""

    attempt: int  #: counted from 1
    state: str  #: succeeded, refused, unreachable, unavailable, ambiguous, blocked, invalid, unmet or failed
    request: dict[str, Any] | None
    response: dict[str, Any] | None
    error: str | None
    delivery_id: str  #: the same for all attempts of the step
    started_at: str
    took_seconds: float
    wait_seconds: float | None  #: until the next attempt; null if there is none
    worker_id: str
    timings: dict[str, float] | None  #: seconds of each part


class StepJson(TypedDict):
    """The state of one step of an execution."""

    id: str
    name: str  #: for people; empty if the author gave none
    uses: str
    phase: str  #: main, or on-failure
    state: str  #: waiting, running, succeeded, failed, cancelled or skipped
    reason: str | None
    attempt_count: int
    outputs: dict[str, Any] | None
    job_id: str | None  #: the job that the step waits for, or has waited for
    started_at: str | None
    finished_at: str | None


class StepDetail(StepJson):
    """The state of one step with the receipt of every attempt."""

    attempts: list[AttemptJson]


class _ExecutionWithoutSteps(TypedDict):
    id: str
    automation: str
    revision: str
    event_id: str
    replay: bool  #: whether a user asked for it, after the event was matched
    state: str  #: waiting, running, succeeded, failed, cancelled or skipped
    reason: str | None  #: why it waits, failed, was cancelled or skipped
    due_at: str | None  #: when a waiting execution continues
    worker_id: str | None  #: the worker that carries it out now; null if it is not running
    created_at: str
    finished_at: str | None


class ExecutionJson(_ExecutionWithoutSteps):
    """One automation answering one event."""

    steps: list[StepJson]


class ExecutionDetail(_ExecutionWithoutSteps):
    """One automation answering one event, with the receipt of every attempt."""

    steps: list[StepDetail]


class FailedExecutionJson(TypedDict):
    """The execution that an `execution-failed` event reports on."""

    id: str
    automation: str
    revision: str
    event_id: str
    state: str
    reason: str | None
    step_id: str | None  #: the step that failed


def execution_json(execution: Execution) -> ExecutionJson:
    """Return the JSON object of an execution without its receipts."""
    return {
        "id": execution.id,
        "automation": execution.automation,
        "revision": execution.revision_id,
        "event_id": execution.event_id,
        "replay": execution.is_replay,
        "state": execution.state.value,
        "reason": execution.reason,
        "due_at": format_optional_time(execution.due_at),
        "worker_id": execution.lease_owner_id if execution.state is ExecutionState.RUNNING else None,
        "created_at": format_time(execution.created_at),
        "finished_at": format_optional_time(execution.finished_at),
        "steps": [_step_json(step) for step in execution.steps],
    }


def execution_detail(execution: Execution, receipts: Iterable[Receipt]) -> ExecutionDetail:
    """Return the JSON object of an execution with its receipts."""
    attempts: dict[str, list[AttemptJson]] = defaultdict(list)
    for receipt in receipts:
        attempts[receipt.step_id].append(_attempt_json(receipt))
    summary = execution_json(execution)
    return {**summary, "steps": [{**step, "attempts": attempts[step["id"]]} for step in summary["steps"]]}


def failed_execution_json(execution: Execution, failed_step: StepRecord | None) -> FailedExecutionJson:
    """Return the JSON object of a failed execution for the event that reports it."""
    return {
        "id": execution.id,
        "automation": execution.automation,
        "revision": execution.revision_id,
        "event_id": execution.event_id,
        "state": execution.state.value,
        "reason": execution.reason,
        "step_id": failed_step.id if failed_step else None,
    }


def _step_json(step: StepRecord) -> StepJson:
    return {
        "id": step.id,
        "name": step.name,
        "uses": step.uses,
        "phase": step.phase.value,
        "state": step.state.value,
        "reason": step.reason,
        "attempt_count": step.attempt_count,
        "outputs": None if step.outputs is None else dict(step.outputs),
        "job_id": step.job_id,
        "started_at": format_optional_time(step.started_at),
        "finished_at": format_optional_time(step.finished_at),
    }


def _attempt_json(receipt: Receipt) -> AttemptJson:
    return {
        "attempt": receipt.attempt,
        "state": receipt.state.value,
        "request": None if receipt.request is None else dict(receipt.request),
        "response": None if receipt.response is None else dict(receipt.response),
        "error": receipt.error,
        "delivery_id": receipt.delivery_id,
        "started_at": format_time(receipt.started_at),
        "took_seconds": receipt.took_seconds,
        "wait_seconds": receipt.wait_seconds,
        "worker_id": receipt.worker_id,
        "timings": None if receipt.timings is None else dict(receipt.timings),
    }
