"""`add-tag`: add a tag to a version or a collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from typing_extensions import override

from upshot.actions.inputs import parse_inputs
from upshot.actions.protocol import Action, ActionCall, ActionContext, Outcome
from upshot.actions.registry_changes import call_registry, change_outcome, find_collection, find_version
from upshot.schema.action_inputs import AddTagInputs, InputProblem


class AddTag(Action):
    """
    Adds a tag to the event's version or, with `on: collection`, to its collection, or to named ones.

    Repeating the step changes nothing. Outputs: `reference`, `tag`, `changed`.
    """

    uses = "add-tag"
    inputs_model = AddTagInputs
    sends = False

    @override
    def check(self, with_: Mapping[str, Any]) -> Iterable[InputProblem]:
        if with_.get("on") == "collection" and "version" in with_:
            yield "version", "`on: collection` adds the tag to the collection; remove either `version` or `on`"

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        inputs = parse_inputs(AddTagInputs, call)
        version: str | None = None
        if inputs.on_ == "version":
            registry, collection, version = find_version(inputs, call.event)
        else:
            registry, collection = find_collection(inputs, call.event)
        request = {"registry": registry, "collection": collection, "version": version, "tag": inputs.tag}
        add_tag = partial(context.registry.add_tag, registry, collection, inputs.tag, version, origin=call.origin)
        change = await call_registry(add_tag, request)
        return change_outcome(change, request, reference=change.value.reference, tag=inputs.tag)
