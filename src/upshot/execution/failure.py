"""The event that an execution's failure is: it fires automations like any other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from upshot.domain.event import SNAPSHOT_NAMES, Actor, Cause, Event, EventKind
from upshot.domain.execution import Execution, ExecutionState
from upshot.execution.transitions import failed_step
from upshot.ids import derived_event_id
from upshot.ports.executions import Admission, ExecutionUpdate


def failure_event(execution: Execution, event: Event) -> Event:
    """
    What happened, for those who watch over automations.

    Its data holds `automation` (a name), `execution` {id, revision, reason, step}, `event` {id, kind,
    subject} and, of a registry event, the contexts that it carried, so that filters on them hold.

    Args:
        execution: Failed.
        event: That it answered.
    """
    step = failed_step(execution)
    data: dict[str, Any] = {} if event.kind is EventKind.CUSTOM else {n: event.data[n] for n in _carried(event)}
    data |= {
        "automation": execution.automation,
        "execution": {
            "id": execution.id,
            "revision": execution.revision,
            "reason": execution.reason,
            "step": step.id if step else None,
        },
        "event": {"id": event.id, "kind": event.kind.value, "subject": event.subject},
    }
    moment = execution.finished_at or execution.created_at
    return Event(
        # Once for each failure: a person's retry makes the fence grow, a repeated write does not.
        id=derived_event_id(execution.id, f"failed after claim {execution.fence}", moment),
        kind=EventKind.EXECUTION_FAILED,
        time=moment,
        subject=execution.automation,
        actor=Actor(execution.automation, "automation"),
        mutation_id=execution.id,
        sequence=0,
        data=data,
        chain=(*event.chain, Cause(execution.automation, execution.id, event.id, event.version_reference)),
    )


def _carried(event: Event) -> list[str]:
    return [name for name in SNAPSHOT_NAMES if name in event.data]


def with_failure(progress: ExecutionUpdate, event: Event) -> ExecutionUpdate:
    """The progress, and if it ends in a failure, the event that says so, to be kept together."""
    if progress.execution.state is not ExecutionState.FAILED:
        return progress
    return replace(progress, events=(failure_event(progress.execution, event),))


def admission(event: Event, executions: tuple[Execution, ...]) -> Admission:
    """The executions that answer an event, with the events of those that failed from the start."""
    failed = (one for one in executions if one.state is ExecutionState.FAILED)
    return Admission(event.id, executions, tuple(failure_event(one, event) for one in failed))
