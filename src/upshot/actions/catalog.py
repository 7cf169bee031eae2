"""The catalog of actions: the built-in ones and those that other packages install."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict
from typing_extensions import override

from upshot.actions.add_alias import AddAlias
from upshot.actions.add_tag import AddTag
from upshot.actions.emit import Emit
from upshot.actions.find_version import FindVersion
from upshot.actions.github_dispatch import GithubDispatch
from upshot.actions.inputs import invalid_input
from upshot.actions.launch import Launch
from upshot.actions.protocol import Action, ActionCall, ActionContext, Outcome
from upshot.actions.require import Require
from upshot.actions.set_stage import SetStage
from upshot.actions.slack import Slack
from upshot.actions.webhook import Webhook
from upshot.schema.action_inputs import InputProblem
from upshot.schema.queues import JobsConfig

#: The name of each entry point is the name of its action. It loads a class or a function that creates one.
ENTRY_POINT_GROUP = "upshot.actions"


class _AnyInputs(BaseModel):
    model_config = ConfigDict(extra="allow")


class BrokenAction(Action):
    """
    Takes the place of an installed action that cannot be loaded.

    The other actions keep working. Validating or running a step that uses this one reports the reason.
    """

    inputs_model = _AnyInputs

    def __init__(self, uses: str, reason: str) -> None:
        self.uses = uses
        self.reason = reason  #: what is wrong, and with which package

    @override
    def check(self, with_: Mapping[str, Any]) -> Iterable[InputProblem]:
        yield "", self.reason

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        raise invalid_input(self.reason)


def load_catalog(jobs: JobsConfig | None = None) -> Mapping[str, Action]:
    """
    Return all actions by the name that YAML uses.

    Args:
        jobs: Queues and backends, which check the jobs in automation files. None: those of an installation
            without an operator's file.
    """
    built_in: tuple[Action, ...] = (
        Webhook(),
        GithubDispatch(),
        Slack(),
        Require(),
        FindVersion(),
        AddAlias(),
        AddTag(),
        SetStage(),
        Emit(),
        Launch(jobs or JobsConfig()),
    )
    installed = {point.name: _load(point) for point in entry_points(group=ENTRY_POINT_GROUP)}
    return installed | {action.uses: action for action in built_in}


def _load(point: EntryPoint) -> Action:
    described = f"action {point.name!r} of {point.dist.name if point.dist else point.value}"
    try:
        action: Action = point.load()()
    except Exception as error:  # noqa: BLE001 - an installed module can raise anything, which must not stop Upshot
        return BrokenAction(point.name, f"{described} cannot be loaded: {type(error).__name__}: {error}")
    required = ("uses", "inputs_model", "expressions", "check", "perform")
    if missing := [name for name in required if not hasattr(action, name)]:
        return BrokenAction(point.name, f"{described} lacks {', '.join(missing)}")
    if action.uses != point.name:
        reason = f"{described} has the name {action.uses!r}; it must be the name of the entry point"
        return BrokenAction(point.name, reason)
    return action
