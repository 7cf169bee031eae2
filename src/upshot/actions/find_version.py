"""`find-version`: look up a version of the registry as it is now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from upshot.actions.inputs import Finding, read_with
from upshot.actions.protocol import ActionCall, ActionContext, Outcome
from upshot.actions.registry_changes import find_version
from upshot.domain.registry import Version
from upshot.errors import NotFound, Refused, RegistryError, Unavailable, Unreachable
from upshot.schema.action_inputs import FindVersionInputs


class FindVersion:
    """
    Look up the version that `vN` or an alias means; what is left out is the event's.

    An event says what was true when it happened; this says what is true now: what production has
    measured, what a job has added to the event's own version. Outputs: `found`, `reference`, `name`,
    `digest`, `metadata`, `aliases`, `tags`; null, or empty, where there is none and `optional` is true.
    """

    uses = "find-version"
    with_record = FindVersionInputs
    expressions: frozenset[str] = frozenset()

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Nothing beyond the record's rules."""
        return ()

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome:
        """Look it up."""
        given = read_with(FindVersionInputs, call)
        registry, collection, version = find_version(given, call.event)
        asked = {"registry": registry, "collection": collection, "version": version, "optional": given.optional}
        try:
            found = await asyncio.to_thread(tools.registry.version, registry, collection, version)
        except NotFound as error:
            if not given.optional:
                remedy = "write `optional: true` to go on without it"
                raise Refused(f"{error}; {remedy}", request=asked) from error
            return Outcome(outputs=_nothing(), request=asked, response={"found": False, "reason": str(error)})
        except RegistryError as error:
            raise Refused(str(error), request=asked) from error
        except Unavailable as error:
            raise Unreachable(str(error), request=asked) from error
        outputs = _outputs(found)
        return Outcome(outputs=outputs, request=asked, response=outputs)


def _outputs(version: Version) -> dict[str, Any]:
    return {
        "found": True,
        "reference": version.reference,
        "name": version.name,
        "digest": version.artifact.digest,
        "metadata": dict(version.artifact.metadata),
        "aliases": list(version.aliases),
        "tags": list(version.artifact.tags),
    }


def _nothing() -> dict[str, Any]:
    nothing = dict.fromkeys(("reference", "name", "digest", "metadata"))
    return {"found": False, **nothing, "aliases": [], "tags": []}
