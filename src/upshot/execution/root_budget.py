"""
The budget of a root event: the number of executions that it may lead to, directly and through other events.

A few automations that answer one another's events can multiply without limit until their chains are too long.
The store counts executions in the transaction that admits them, so that several workers share one count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from upshot.domain.execution import Execution, ExecutionState
from upshot.execution.transitions import skip_at_admission
from upshot.ids import ExecutionId
from upshot.ports.executions import Admission, RootBudget

DEFAULT_MAX_ROOT_EXECUTIONS = 1_000


def counted_by_root(admissions: Iterable[Admission]) -> dict[RootBudget, tuple[Execution, ...]]:
    """Return the executions to count, by budget, in the order of the budgets' events. Skipped ones do not count."""
    counted: dict[RootBudget, tuple[Execution, ...]] = {}
    for admission in admissions:
        if admission.budget is not None:
            added = (execution for execution in admission.executions if execution.state is not ExecutionState.SKIPPED)
            counted[admission.budget] = (*counted.get(admission.budget, ()), *added)
    return dict(sorted(counted.items(), key=lambda item: item[0].root_event_id))


def skip_over_budget(
    budget: RootBudget, new: Sequence[Execution], *, used: int, now: datetime
) -> dict[ExecutionId, Execution]:
    """
    Return, as skipped, those of the new executions that are over the budget.

    Args:
        budget: The budget.
        new: Executions that are not stored yet.
        used: Number of executions that were counted before.
        now: The current time.
    """
    over = new[max(0, budget.max_executions - used) :]
    reason = f"event {budget.root_event_id} has led to {budget.max_executions} executions, which is the maximum"
    return {execution.id: skip_at_admission(execution, reason=reason, now=now) for execution in over}


def warning_text(budget: RootBudget) -> str:
    """Return the warning of an event whose budget is exhausted."""
    return (
        f"this event has led to {budget.max_executions} executions, which is the maximum (UPSHOT_ROOT_EXECUTIONS); "
        "further executions are skipped"
    )
