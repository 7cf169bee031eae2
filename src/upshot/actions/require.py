"""`require`: go on only where a condition holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from upshot.actions.inputs import Finding, read_with
from upshot.actions.protocol import ActionCall, ActionContext, Outcome
from upshot.errors import Unmet
from upshot.schema.action_inputs import RequireInputs


class Require:
    """
    Fail the execution with the author's own words unless the expression `that` holds.

    What counts as true is Jinja's rule: anything but false, null, zero and what is empty. Outputs: `value`.
    """

    uses = "require"
    with_record = RequireInputs
    expressions: frozenset[str] = frozenset({"that"})

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Nothing beyond the record's rules."""
        return ()

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome:
        """Look at the value."""
        given = read_with(RequireInputs, call)
        if not given.that:
            raise Unmet(given.otherwise, request={"that": given.that})
        return Outcome(outputs={"value": given.that})
