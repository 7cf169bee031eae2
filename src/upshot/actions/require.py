"""`require`: continue only if a condition holds."""

from __future__ import annotations

from typing_extensions import override

from upshot.actions.inputs import parse_inputs
from upshot.actions.protocol import Action, ActionCall, ActionContext, Outcome
from upshot.errors import Unmet
from upshot.schema.action_inputs import RequireInputs


class Require(Action):
    """
    Fails the execution with the author's own message unless the condition `that` is true.

    A value that is neither true nor false is an error. Outputs: `value`, which is true.
    """

    uses = "require"
    inputs_model = RequireInputs
    sends = False
    expressions = frozenset({"that"})

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        inputs = parse_inputs(RequireInputs, call)
        if not inputs.that:
            raise Unmet(inputs.otherwise, request={"that": inputs.that})
        return Outcome(outputs={"value": inputs.that})
