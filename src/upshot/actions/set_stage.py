"""`set-stage`: move a version to a stage."""

from __future__ import annotations

from functools import partial

from typing_extensions import override

from upshot.actions.inputs import parse_inputs
from upshot.actions.protocol import Action, ActionCall, ActionContext, Outcome
from upshot.actions.registry_changes import call_registry, change_outcome, find_version
from upshot.domain.stage import parse_stage
from upshot.schema.action_inputs import SetStageInputs


class SetStage(Action):
    """
    Moves the event's version or a named one to a stage, as the MLflow Model Registry has them.

    Repeating the step changes nothing. Outputs: `reference`, `stage`, `changed`.
    """

    uses = "set-stage"
    inputs_model = SetStageInputs

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        inputs = parse_inputs(SetStageInputs, call)
        registry, collection, version = find_version(inputs, call.event)
        stage = parse_stage(inputs.stage)
        names = {"registry": registry, "collection": collection, "version": version}
        request = {**names, "stage": stage.value, "archive_existing": inputs.archive_existing}
        set_stage = partial(
            context.registry.set_stage,
            **names,
            stage=stage,
            archive_existing=inputs.archive_existing,
            origin=call.origin,
        )
        change = await call_registry(set_stage, request)
        return change_outcome(change, request, reference=change.value.reference, stage=stage.value)
