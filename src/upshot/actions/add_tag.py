"""`add-tag`: tag a version, or a collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from upshot.actions.inputs import Finding, read_with
from upshot.actions.protocol import ActionCall, ActionContext, Outcome
from upshot.actions.registry_changes import change, find_collection, find_version, told
from upshot.schema.action_inputs import AddTagInputs


class AddTag:
    """
    Tag the event's version or, with `on: collection`, its collection; or those that are named.

    A repetition changes nothing. Outputs: `reference`, `tag`, `changed`.
    """

    uses = "add-tag"
    with_record = AddTagInputs
    expressions: frozenset[str] = frozenset()

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Finding for a version where the collection is to be tagged."""
        if with_.get("on") == "collection" and "version" in with_:
            yield "version", "is given, but `on: collection` tags the collection; leave one of them out"

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome:
        """Tag it."""
        given = read_with(AddTagInputs, call)
        version: str | None = None
        if given.on_ == "version":
            registry, collection, version = find_version(given, call.event)
        else:
            registry, collection = find_collection(given, call.event)
        mutate = partial(
            tools.registry.add_tag, registry, collection, given.tag, version, actor=call.actor, chain=call.chain
        )
        asked = {"registry": registry, "collection": collection, "version": version, "tag": given.tag}
        made = await change(mutate, asked)
        return told(made, asked, reference=made.value.reference, tag=given.tag)
