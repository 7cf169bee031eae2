"""Steps and receipts as plain data for a JSON column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from upshot.clock import format_time, parse_time
from upshot.domain.execution import AttemptState, ExecutionState, Receipt, StepPhase, StepRecord
from upshot.ids import ExecutionId

_STEP_FIELDS = (
    "name",
    "reason",
    "attempt_count",
    "failures",
    "losses",
    "is_invalid",
    "continued",
    "outputs",
    "job_id",
    "ignores_overtaking",
    "overtaken_by",
)
_RECEIPT_FIELDS = (
    "delivery_id",
    "took_seconds",
    "worker_id",
    "request",
    "response",
    "error",
    "wait_seconds",
    "timings",
)


def dump_steps(steps: Sequence[StepRecord]) -> list[dict[str, Any]]:
    """Return the steps of an execution as JSON. Empty fields are left out, because steps are written often."""
    return [_dump_step(step) for step in steps]


def _dump_step(step: StepRecord) -> dict[str, Any]:
    data: dict[str, Any] = {"id": step.id, "uses": step.uses, "phase": step.phase.value, "state": step.state.value}
    data |= {name: value for name in _STEP_FIELDS if (value := getattr(step, name))}
    if step.started_at is not None:
        data["started_at"] = format_time(step.started_at)
    if step.finished_at is not None:
        data["finished_at"] = format_time(step.finished_at)
    return data


def load_step(data: Mapping[str, Any]) -> StepRecord:
    """Read a step that `dump_steps` returned."""
    times = {name: parse_time(data[name]) for name in ("started_at", "finished_at") if name in data}
    states = {"phase": StepPhase(data["phase"]), "state": ExecutionState(data["state"])}
    return StepRecord(**{**data, **times, **states})


def dump_receipt(receipt: Receipt) -> dict[str, Any]:
    """Return a receipt as JSON, without its key, state and start, which have columns of their own."""
    return {name: value for name in _RECEIPT_FIELDS if (value := getattr(receipt, name)) is not None}


def load_receipt(
    data: Mapping[str, Any], *, execution_id: ExecutionId, step_id: str, attempt: int, state: str, started_at: datetime
) -> Receipt:
    """Read a receipt that `dump_receipt` returned."""
    return Receipt(
        execution_id=execution_id,
        step_id=step_id,
        attempt=attempt,
        state=AttemptState(state),
        started_at=started_at,
        **data,
    )
