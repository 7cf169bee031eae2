"""Steps and receipts as the plain data that is kept in a text column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from upshot.clock import format_time, parse_time
from upshot.domain.execution import AttemptState, ExecutionState, Receipt, StepRecord


def dump_steps(steps: Sequence[StepRecord]) -> list[dict[str, Any]]:
    """What is kept of an execution's steps; fields that say nothing are left out, for this is written often."""
    return [_dump_step(step) for step in steps]


def _dump_step(step: StepRecord) -> dict[str, Any]:
    form: dict[str, Any] = {"id": step.id, "uses": step.uses, "phase": step.phase, "state": step.state.value}
    for name in ("reason", "attempts", "failures", "losses", "continued", "outputs", "job_id"):
        if value := getattr(step, name):
            form[name] = value
    for name in ("started_at", "finished_at"):
        if (moment := getattr(step, name)) is not None:
            form[name] = format_time(moment)
    return form


def load_step(form: Mapping[str, Any]) -> StepRecord:
    """Read what `steps_form` wrote."""
    return StepRecord(
        id=form["id"],
        uses=form["uses"],
        phase=form["phase"],
        state=ExecutionState(form["state"]),
        reason=form.get("reason"),
        attempts=form.get("attempts", 0),
        failures=form.get("failures", 0),
        losses=form.get("losses", 0),
        continued=form.get("continued", False),
        outputs=form.get("outputs"),
        job_id=form.get("job_id"),
        started_at=parse_time(form["started_at"]) if "started_at" in form else None,
        finished_at=parse_time(form["finished_at"]) if "finished_at" in form else None,
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


def dump_receipt(receipt: Receipt) -> dict[str, Any]:
    """What is kept of a receipt beside its key, state and start."""
    return {name: value for name in _RECEIPT_FIELDS if (value := getattr(receipt, name)) is not None}


def load_receipt(
    form: Mapping[str, Any], *, execution_id: str, step_id: str, attempt: int, state: str, started_at: datetime
) -> Receipt:
    """Read what `receipt_form` wrote."""
    return Receipt(
        execution_id=execution_id,
        step_id=step_id,
        attempt=attempt,
        state=AttemptState(state),
        started_at=started_at,
        **form,
    )
