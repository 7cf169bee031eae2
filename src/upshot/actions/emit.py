"""`emit`: create a custom event, which other automations can answer."""

from __future__ import annotations

from functools import partial

from typing_extensions import override

from upshot.actions.inputs import parse_inputs
from upshot.actions.protocol import Action, ActionCall, ActionContext, Outcome
from upshot.actions.registry_changes import call_registry
from upshot.ids import derive_event_id
from upshot.schema.action_inputs import EmitInputs


class Emit(Action):
    """
    Creates a custom event with a name and data of the author's choice.

    The id of the event is derived from the delivery id, so repeating the step creates no second event. Outputs:
    `event_id`.
    """

    uses = "emit"
    inputs_model = EmitInputs
    sends = False

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        inputs = parse_inputs(EmitInputs, call)
        event_id = derive_event_id(call.execution_id, call.delivery_id, call.execution_created_at)
        request = {"name": inputs.name, "data": inputs.data, "event_id": event_id}
        events = [(inputs.name, inputs.data)]
        await call_registry(partial(context.registry.emit, events, origin=call.origin, event_ids=[event_id]), request)
        return Outcome(outputs={"event_id": event_id}, request=request)
