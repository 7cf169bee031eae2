"""`add-alias`: add an alias to a version."""

from __future__ import annotations

from functools import partial

from typing_extensions import override

from upshot.actions.inputs import parse_inputs
from upshot.actions.protocol import Action, ActionCall, ActionContext, Outcome
from upshot.actions.registry_changes import call_registry, change_outcome, find_version
from upshot.schema.action_inputs import AddAliasInputs


class AddAlias(Action):
    """
    Adds an alias to the event's version or to a named one. Another version that holds the alias loses it.

    Repeating the step changes nothing. Outputs: `reference`, `alias`, `changed`.
    """

    uses = "add-alias"
    inputs_model = AddAliasInputs
    sends = False

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        inputs = parse_inputs(AddAliasInputs, call)
        registry, collection, version = find_version(inputs, call.event)
        request = {"registry": registry, "collection": collection, "version": version, "alias": inputs.alias}
        add_alias = partial(context.registry.add_alias, **request, origin=call.origin)
        change = await call_registry(add_alias, request)
        return change_outcome(change, request, reference=change.value.reference, alias=inputs.alias)
