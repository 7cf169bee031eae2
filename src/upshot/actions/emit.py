"""`emit`: make a custom event, which other automations can answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from upshot.actions.inputs import Finding, read_with
from upshot.actions.protocol import ActionCall, ActionContext, Outcome
from upshot.actions.registry_changes import change
from upshot.ids import derived_event_id
from upshot.schema.action_inputs import EmitInputs


class Emit:
    """
    Emit a custom event with a name and data of the author's own.

    The event's id is derived from the delivery, so that a repetition emits once. Outputs: `event`, its id.
    """

    uses = "emit"
    with_record = EmitInputs
    expressions: frozenset[str] = frozenset()

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Nothing beyond the record's rules."""
        return ()

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome:
        """Emit it."""
        given = read_with(EmitInputs, call)
        event_id = derived_event_id(call.execution, call.delivery_id, call.execution_created_at)
        asked = {"name": given.name, "data": given.data, "event": event_id}
        emit = partial(
            tools.registry.emit,
            [(given.name, given.data)],
            actor=call.actor,
            chain=call.chain,
            event_ids=[event_id],
        )
        await change(emit, asked)
        return Outcome(outputs={"event": event_id}, request=asked)
