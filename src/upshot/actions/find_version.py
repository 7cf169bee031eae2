"""`find-version`: look up a version as it is in the registry now."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from upshot.actions.inputs import parse_inputs
from upshot.actions.protocol import Action, ActionCall, ActionContext, Outcome
from upshot.actions.registry_changes import call_registry, find_version
from upshot.domain.registry import Version
from upshot.errors import NotFound, Refused
from upshot.schema.action_inputs import FindVersionInputs


class FindVersion(Action):
    """
    Looks up the version that `vN` or an alias refers to. What the step leaves out is taken from the event.

    An event describes the registry when it happened. This action describes it now: the metrics of the version in
    production, or what a job has added to the event's own version. Outputs: `found`, `reference`, `name`,
    `digest`, `metadata`, `aliases`, `tags`. If there is no such version and `optional` is true, they are null or
    empty.
    """

    uses = "find-version"
    inputs_model = FindVersionInputs
    sends = False

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        inputs = parse_inputs(FindVersionInputs, call)
        registry, collection, name = find_version(inputs, call.event)
        request = {"registry": registry, "collection": collection, "version": name, "optional": inputs.optional}

        def look_up() -> Version | NotFound:
            try:
                return context.registry.version(registry, collection, name)
            except NotFound as error:
                return error

        version = await call_registry(look_up, request)
        if isinstance(version, NotFound):
            if not inputs.optional:
                raise Refused(f"{version}; write `optional: true` to continue without it", request=request)
            nothing = dict.fromkeys(("reference", "name", "digest", "metadata"))
            outputs: dict[str, Any] = {"found": False, **nothing, "aliases": [], "tags": []}
            return Outcome(outputs=outputs, request=request, response={"found": False, "reason": str(version)})
        outputs = {
            "found": True,
            "reference": version.reference,
            "name": version.name,
            "digest": version.artifact_version.digest,
            "metadata": dict(version.artifact_version.metadata),
            "aliases": list(version.aliases),
            "tags": list(version.artifact_version.tags),
        }
        return Outcome(outputs=outputs, request=request, response=outputs)
