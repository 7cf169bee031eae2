"""The `execution-failed` event. Automations can answer it like any other event."""

from __future__ import annotations

from typing import Any

from upshot.domain.event import SNAPSHOT_NAMES, Actor, ActorKind, Cause, Event, EventKind
from upshot.domain.execution import Execution
from upshot.execution.transitions import failed_step
from upshot.ids import derive_event_id
from upshot.resources.event import event_reference
from upshot.resources.execution import failed_execution_json


def failure_event(execution: Execution, event: Event) -> Event | None:
    """
    Build the event of a failed execution, or return None if the execution answers such an event itself.

    Without this exception, automations that answer failures and fail would keep answering one another.

    Its data holds `automation` (a name), `execution` (see `FailedExecutionJson`) and `event` {id, kind, subject}.
    If the execution answered a registry event, the data also holds the contexts of that event, so that filters
    on them match.

    Args:
        execution: The failed execution.
        event: The event that it answered.
    """
    if event.kind is EventKind.EXECUTION_FAILED:
        return None
    data: dict[str, Any] = {}
    if event.kind is not EventKind.CUSTOM:
        data = {name: event.data[name] for name in SNAPSHOT_NAMES if name in event.data}
    data |= {
        "automation": execution.automation,
        "execution": failed_execution_json(execution, failed_step(execution)),
        "event": event_reference(event),
    }
    time = execution.finished_at or execution.created_at
    return Event(
        # One id per failure: a retry by a user increases the fence, a repeated write does not.
        id=derive_event_id(execution.id, f"failed after claim {execution.fence}", time),
        kind=EventKind.EXECUTION_FAILED,
        time=time,
        subject=execution.automation,
        actor=Actor(execution.automation, ActorKind.AUTOMATION),
        mutation_id=execution.id,
        sequence=0,
        data=data,
        chain=(*event.chain, Cause(execution.automation, execution.id, event.id, event.version_reference)),
    )
