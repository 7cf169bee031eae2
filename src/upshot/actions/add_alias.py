"""`add-alias`: give an alias to a version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from upshot.actions.inputs import Finding, read_with
from upshot.actions.protocol import ActionCall, ActionContext, Outcome
from upshot.actions.registry_changes import change, find_version, told
from upshot.schema.action_inputs import AddAliasInputs


class AddAlias:
    """
    Give an alias to the event's version, or to the one that is named; whoever held it loses it.

    A repetition changes nothing. Outputs: `reference`, `alias`, `changed`.
    """

    uses = "add-alias"
    with_record = AddAliasInputs
    expressions: frozenset[str] = frozenset()

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Nothing beyond the record's rules."""
        return ()

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome:
        """Give it."""
        given = read_with(AddAliasInputs, call)
        registry, collection, version = find_version(given, call.event)
        asked = {"registry": registry, "collection": collection, "version": version, "alias": given.alias}
        made = await change(partial(tools.registry.add_alias, **asked, actor=call.actor, chain=call.chain), asked)
        return told(made, asked, reference=made.value.reference, alias=given.alias)
